#![no_main]

libfuzzer_sys::fuzz_target!(|input: polylora_fuzz::linear::Input| polylora_fuzz::linear::check(&input));
