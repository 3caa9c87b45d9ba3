//! Mistakes that could be made, each made on purpose: in the shared store, on the way to it, on the disk, or in how
//! clients are served. The checker must find every one of them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A log takes whatever comes, and notes the highest number.
    MaxWatermark,
    /// Of the two keys of a log one may be there without the other.
    NoTornCheck,
    /// What is in a log already is appended again.
    NoDuplicateCheck,
    /// Of an origin that it does not know a log takes any number for the first.
    BaseIgnored,
    /// Only this start's own entries are offered.
    HealOnlyOwn,
    /// Of two writes of a field the one that arrives last stands.
    TiesByArrival,
    /// Nobody is told that the shared store has lost something.
    NoAudit,
    /// A client goes on where the instance stands, not where the client does.
    CursorFromInstance,
    /// A client's place is forgotten when it comes back.
    CursorForgotten,
    /// A later write brings a terminated session back.
    LateWriteRevives,
    /// Writes are acknowledged before the disk has synced them.
    AckBeforeSync,
    /// Some of what is offered is confirmed and not done.
    PushSwallowed,
    /// Debts are not written to the disk.
    DebtsForgotten,
    /// While the shared store is away, what is not known here is said not to exist.
    NotFoundWhileDown,
    /// Nobody is told that pushes may have been missed.
    LapseUntold,
    /// What is held counts as fresh although pushes do not come.
    LeaseIgnored,
    /// Some pushes do not come, and nobody notices.
    PushesLost,
    /// A terminated session is forgotten too early.
    TombstoneTooShort,
    /// A fence is the last one plus one, and nothing else.
    FenceWithoutTime,
    /// A lock among all is given by an instance alone.
    LockAlone,
    /// The last report of a result stands.
    ResultLastWins,
    /// Clients are not told of gaps.
    GapUntold,
    /// A link that fails sends everything a second time, and a log takes it for news.
    BlindRetry,
}

impl Mutant {
    pub const ALL: [Self; 23] = [
        Self::MaxWatermark,
        Self::NoTornCheck,
        Self::NoDuplicateCheck,
        Self::BaseIgnored,
        Self::HealOnlyOwn,
        Self::TiesByArrival,
        Self::NoAudit,
        Self::CursorFromInstance,
        Self::CursorForgotten,
        Self::LateWriteRevives,
        Self::AckBeforeSync,
        Self::PushSwallowed,
        Self::DebtsForgotten,
        Self::NotFoundWhileDown,
        Self::LapseUntold,
        Self::LeaseIgnored,
        Self::PushesLost,
        Self::TombstoneTooShort,
        Self::FenceWithoutTime,
        Self::LockAlone,
        Self::ResultLastWins,
        Self::GapUntold,
        Self::BlindRetry,
    ];
}
