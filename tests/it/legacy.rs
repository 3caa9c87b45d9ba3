//! The revisions with sessions, 2024-11-05 to 2025-11-25, as a client sees them.

mod answers;
mod ask;
mod batch;
mod calls;
mod handshake;
mod session;
