//! What every layer may use: time, ids, bounds, secrets.

pub mod backoff;
pub mod clock;
pub mod counted;
pub mod ids;
pub mod limits;
pub mod percent;
pub mod seal;
pub mod table;
pub mod text;
