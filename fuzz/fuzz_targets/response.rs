//! A response means the same however it is cut into pieces.
#![no_main]

use imis_gateway::workbench::read_message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = read_message(bytes, true, usize::MAX >> 1);
    let pieces = read_message(bytes, true, usize::from(cut));
    assert_eq!(whole, pieces);
});
