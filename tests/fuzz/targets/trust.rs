//! libFuzzer's way into the target `trust`; what it does is in `src/trust.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::trust::run(data));
