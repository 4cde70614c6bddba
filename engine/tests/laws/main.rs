//! Laws of the engine: of the scheduler alone, and of the whole engine around a fake device.

mod answers;
mod clients;
mod closed_loop;
mod failures;
mod fakes;
mod generation;
mod harness;
mod memo;
mod modes;
mod outputs;
mod scheduling;
mod traffic;
mod warming_up;
