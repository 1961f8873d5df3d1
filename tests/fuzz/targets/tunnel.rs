//! libFuzzer's way into the target `tunnel`; what it does is in `src/tunnel.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::tunnel::run(data));
