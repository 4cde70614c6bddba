//! Laws of the scheduler. Random histories are played against a device that is made of hashes.

mod adapters;
mod blocks;
mod client;
mod ends;
mod fake_device;
mod histories;
mod prefixes;
mod scores;
mod siblings;
mod waiting;
