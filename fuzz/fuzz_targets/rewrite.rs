//! What the upstream gets of a request is a request again, with the same target and the same end, and it is the last word:
//! rewriting it once more changes only what the gateway itself says.
#![no_main]

use imis_gateway::workbench::{read_message, rewrite_request, rewrite_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| {
    let mut once = Vec::new();
    if read_message(head, false, usize::MAX >> 1).is_some_and(|message| message.head == head.len())
        && rewrite_request(head, &mut once)
    {
        if head.windows(8).any(|part| part.eq_ignore_ascii_case(b"chunked\r")) {
            // Chunks are announced by the connection that sends them, which is not part of this.
            return;
        }
        let mut twice = Vec::new();
        assert!(rewrite_request(&once, &mut twice), "{}", String::from_utf8_lossy(&once));
        assert_eq!(once, twice);
    }
    let mut out = Vec::new();
    if read_message(head, true, usize::MAX >> 1).is_some_and(|message| message.head == head.len())
        && rewrite_response(head, &mut out)
    {
        let message = read_message(&out, true, usize::MAX >> 1).expect("a response that can be read");
        assert_eq!(message.head, out.len());
    }
});
