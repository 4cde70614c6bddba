//! Laws of text: from tokens to what a client reads.

mod detokenizing;
mod doors;
mod endings;
mod stop_strings;
