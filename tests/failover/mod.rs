//! What the simulation and the chaos runs share: the history of a run, and the judge of it.

pub mod checker;
pub mod history;
pub mod instance;
#[path = "../support/random.rs"]
pub mod random;
