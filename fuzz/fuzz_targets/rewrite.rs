//! See `imis_gateway::workbench::targets::rewrite`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imis_gateway::workbench::targets::rewrite(bytes));
