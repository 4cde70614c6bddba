#![no_main]

libfuzzer_sys::fuzz_target!(|input: polylora_fuzz::attention::Input| polylora_fuzz::attention::check(&input));
