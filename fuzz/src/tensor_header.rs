//! A header of safetensors from any bytes, under a configuration that is sound: two bytes that say how much data follows the
//! header, then the header, whose length field is right.

const CONFIG: &[u8] = br#"{"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["query","value"]}"#;

/// Checks what [`scratch_folder`](crate::scratch_folder) states.
pub fn check(bytes: &[u8]) {
    let Some((length, header)) = bytes.split_first_chunk() else { return };
    let data: Vec<u8> =
        (0..u16::from_le_bytes(*length)).map(|i| if i % 4 == 3 { 0x3f } else { i as u8 }).collect();
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &data].concat();
    crate::scratch_folder::check(CONFIG, &weights);
}
