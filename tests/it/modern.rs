//! The revision without sessions, 2026-07-28, as a client sees it.

mod calls;
mod era;
mod transport;
