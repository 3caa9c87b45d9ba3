//! Pure state machines: input and time in, what follows out. No I/O, no async, no clock.

pub mod contract;
pub mod cursor;
pub mod doc;
pub mod link;
pub mod lock;
pub mod log;
pub mod quota;
pub mod result;
pub mod stamp;
pub mod task;
pub mod topic;
