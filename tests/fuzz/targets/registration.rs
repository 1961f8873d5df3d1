//! libFuzzer's way into the target `registration`; what it does is in `src/registration.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::registration::run(data));
