//! libFuzzer's way into the target `requests`; what it does is in `src/requests.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::requests::run(data));
