//! Laws of text generation: a whole engine around a device that is made of hashes.

mod admission;
mod bounds;
mod copies;
mod failures;
mod fairness;
mod figures;
mod hash_device;
mod leaving;
mod outcomes;
mod prefixes;
mod prompt_scores;
mod same_tokens;
mod speaker;
mod texts;
