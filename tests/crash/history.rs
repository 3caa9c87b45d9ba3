//! What a run of the suite writes down: one JSON object per line, in the order in which things happened.
//!
//! Before an operation there is an `Invoke`; after its answer an `Ok` or a `Fail`. An operation that has neither was in
//! flight when its process died. Sessions, and the values written to them, have numbers that are never used twice.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use outlast::base::clock::SharedClock;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which process start it belongs to, from 1.
    pub run: u32,
    /// Its place in what that process said, from 1; 0: said by the one who runs the processes.
    pub n: u64,
    /// The process's clock, milliseconds.
    pub at: u64,
    pub what: What,
}

impl Record {
    /// Whether it says that something was written.
    pub fn is_written(&self) -> bool {
        matches!(self.what, What::Ok { answer: Answer::Done | Answer::Count(_), .. })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// The store is open, and writes as this origin.
    Start {
        origin: u64,
    },
    /// The store refused to open.
    Refused {
        text: String,
    },
    Invoke {
        op: u64,
        call: Call,
    },
    Ok {
        op: u64,
        answer: Answer,
    },
    Fail {
        op: u64,
        why: Why,
        text: String,
    },
    /// A session was said to be in use, which has no answer.
    Touch {
        s: u32,
        /// The process's clock just before.
        used: u64,
        /// The store did not say, before or after, that it takes no writes: then it notes no uses either.
        taken: bool,
    },
    /// A client received this value on a session's stream.
    Told {
        s: u32,
        value: u64,
    },
    /// All sessions were read for the last time.
    Final,
    /// The database was set aside when this process started. With what the process said.
    Aside {
        said: String,
    },
    /// Something was done to the database while nobody used it.
    Damaged {
        how: String,
    },
    /// The process was killed while it worked.
    Killed,
    /// The process ended by itself.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    Create {
        s: u32,
        fields: Vec<(String, u64)>,
    },
    Put {
        s: u32,
        field: String,
        value: u64,
    },
    /// Several fields in one update.
    PutAll {
        s: u32,
        fields: Vec<(String, u64)>,
    },
    Count {
        s: u32,
        field: String,
    },
    Append {
        s: u32,
        origin: u64,
        seq: u64,
        stream: String,
        value: u64,
        trims: Vec<(u64, u64)>,
    },
    Terminate {
        s: u32,
    },
    Read {
        s: u32,
    },
    ReadLog {
        s: u32,
    },
    Send {
        s: u32,
        value: u64,
    },
}

impl Call {
    pub fn session(&self) -> u32 {
        match self {
            Self::Create { s, .. }
            | Self::Put { s, .. }
            | Self::PutAll { s, .. }
            | Self::Count { s, .. }
            | Self::Append { s, .. }
            | Self::Terminate { s }
            | Self::Read { s }
            | Self::ReadLog { s }
            | Self::Send { s, .. } => *s,
        }
    }

    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::ReadLog { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// What a counter is after the increment.
    Count(u64),
    Unknown,
    Terminated,
    Live {
        fields: Vec<(String, u64)>,
        counters: Vec<(String, u64)>,
        /// Its last use, when it was read from the disk: milliseconds.
        seen: Option<u64>,
    },
    Log(Vec<Run>),
}

/// What is retained of one origin's run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub origin: u64,
    pub base: u64,
    pub hw: u64,
    /// Sequence number, stream, value.
    pub entries: Vec<(u64, String, u64)>,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Nothing was done: there is no such session.
    Gone,
    /// Nothing was done: the disk is full.
    Full,
    /// Nothing was done: a cap.
    Cap,
    /// Nobody knows what was done, and the store takes no more writes.
    Poisoned,
    /// Nobody knows what was done.
    Other,
}

impl Why {
    /// Whether it is certain that nothing was done.
    pub fn is_sure(self) -> bool {
        matches!(self, Self::Gone | Self::Full | Self::Cap)
    }
}

enum Out {
    File(File),
    Memory(Vec<Record>),
}

struct Sequence {
    n: u64,
    ops: u64,
    out: Out,
}

/// Where one process writes its part of the history.
pub struct Sink {
    run: u32,
    clock: SharedClock,
    sequence: Mutex<Sequence>,
}

impl Sink {
    /// Into a file: what was written there is not lost when the process is killed.
    pub fn to_file(path: &Path, run: u32, clock: SharedClock) -> Self {
        let file = File::options().append(true).create(true).open(path).unwrap();
        Self { run, clock, sequence: Mutex::new(Sequence { n: 0, ops: 0, out: Out::File(file) }) }
    }

    pub fn in_memory(run: u32, clock: SharedClock) -> Self {
        Self { run, clock, sequence: Mutex::new(Sequence { n: 0, ops: 0, out: Out::Memory(Vec::new()) }) }
    }

    pub fn note(&self, what: What) {
        self.write(|_| what);
    }

    /// The process's clock, milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Notes that an operation begins, and gives it its number.
    pub fn invoke(&self, call: Call) -> u64 {
        self.write(|op| What::Invoke { op, call })
    }

    /// What was written into memory so far.
    pub fn take(&self) -> Vec<Record> {
        match &mut self.sequence.lock().unwrap_or_else(PoisonError::into_inner).out {
            Out::Memory(records) => std::mem::take(records),
            Out::File(_) => Vec::new(),
        }
    }

    fn write(&self, what: impl FnOnce(u64) -> What) -> u64 {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let op = (u64::from(self.run) << 32) + sequence.ops + 1;
        let what = what(op);
        sequence.ops += u64::from(matches!(what, What::Invoke { .. }));
        sequence.n += 1;
        let record = Record { run: self.run, n: sequence.n, at: self.clock.now_ms(), what };
        match &mut sequence.out {
            Out::Memory(records) => records.push(record),
            Out::File(file) => {
                let mut line = serde_json::to_vec(&record).unwrap();
                line.push(b'\n');
                // One write per line; of the last one before a kill there may be half.
                file.write_all(&line).unwrap();
            }
        }
        op
    }
}

/// Reads what a process has written. Half a line at the end is passed over: what it would have said was not yet true.
pub fn read(path: &Path) -> Vec<Record> {
    let text = std::fs::read(path).unwrap_or_default();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    text[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice(line).unwrap_or_else(|error| {
                panic!("{}: {error}: {}", path.display(), String::from_utf8_lossy(line))
            })
        })
        .collect()
}
