//! Laws of the engine: of the scheduler alone, and of the whole engine around a fake device.

mod answers;
mod clients;
mod failures;
mod fakes;
mod harness;
mod outputs;
mod scheduling;
mod warming_up;
