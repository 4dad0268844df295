//! See `imis_gateway::fuzzing::targets::forms_ticket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imis_gateway::fuzzing::targets::forms_ticket(bytes));
