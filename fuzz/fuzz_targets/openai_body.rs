#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polylora_fuzz::openai_body::check(bytes));
