//! Bodies that are no messages: each is answered with JSON that says why, and the server goes on.

mod bodies;
mod hostile;
mod mutations;
