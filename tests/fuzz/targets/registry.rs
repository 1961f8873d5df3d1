//! libFuzzer's way into the target `registry`; what it does is in `src/registry.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::registry::run(data));
