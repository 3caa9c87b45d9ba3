//! What hosted servers have in common, whether they are children or remote: the handshake, lists, what is changed in the
//! parameters of a call, what they say of changes.

pub(in crate::tools) mod anew;
pub(in crate::tools) mod call_time;
pub(in crate::tools) mod changes;
pub(in crate::tools) mod greeting;
pub(in crate::tools) mod listing;
pub(in crate::tools) mod messages;
pub(in crate::tools) mod own_task;
pub(in crate::tools) mod params;

pub use self::anew::STARTED_ANEW;
