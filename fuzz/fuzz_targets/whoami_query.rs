//! See `imis_gateway::fuzzing::targets::whoami_query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imis_gateway::fuzzing::targets::whoami_query(bytes));
