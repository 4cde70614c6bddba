//! Laws of a pull, over tiny models and a Hub on 127.0.0.1.

mod fake_hub;
mod from_directory;
mod from_hub;
mod from_hub_cache;
mod from_wheel;
mod generating;
mod in_the_store;
mod tiny_model;
