//! libFuzzer's way into the target `stored`; what it does is in `src/stored.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::stored::run(data));
