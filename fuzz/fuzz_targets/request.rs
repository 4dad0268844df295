//! See `imis_gateway::workbench::targets::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imis_gateway::workbench::targets::request(bytes));
