//! A tokenizer for models that have weights of a kind but no vocabulary: a token is written as its number.

use std::fmt::Write as _;

/// The tokenizer.json of a vocabulary of `size` tokens, at least one: blanks part the words, a word is the number of its
/// token, any other word is token 0.
pub fn numbered_tokenizer(size: usize) -> String {
    let mut json = String::from(
        r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel","unk_token":"0","vocab":{"#,
    );
    for id in 0..size {
        let comma = if id == 0 { "" } else { "," };
        let _ = write!(json, r#"{comma}"{id}":{id}"#);
    }
    json.push_str("}}}");
    json
}

#[cfg(test)]
mod tests {
    use crate::TextTokenizer;

    #[test]
    fn a_token_is_its_number_both_ways() {
        let tokenizer = TextTokenizer::numbered(300, 8).expect("a tokenizer");
        assert_eq!(tokenizer.encode("7 299  12 x", false).expect("ids"), [7, 299, 12, 0]);
        assert_eq!(tokenizer.decode(&[7, 299, 12], true).expect("text"), "7 299 12");
        assert_eq!((tokenizer.vocab_size(), tokenizer.max_tokens()), (300, 8));
    }
}
