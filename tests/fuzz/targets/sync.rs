//! libFuzzer's way into the target `sync`; what it does is in `src/sync.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::sync::run(data));
