//! Inputs made of seeds by random changes.

/// What parsers here look for; random bytes hardly ever make it.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0041",
    "\\ud800",
    "null",
    "true",
    "-0",
    "1e999",
    "0.1",
    "123456789012345678901234567890",
    "\"jsonrpc\":\"2.0\"",
    "\"id\":",
    "\"method\":",
    "\"params\":{",
    "\"result\":",
    "\"error\":",
    "\"_meta\":{",
    "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"",
    "\"io.modelcontextprotocol/clientCapabilities\":{}",
    "\"resultType\":",
    "tools/call",
    "initialize",
    "2026-07-28",
    "2025-11-25",
    "=?base64?",
    "?=",
    "q=0",
    "*/*",
    "application/json",
    "text/event-stream",
    "v1.",
    "g.",
    "~",
    "-1",
    "data:",
    "id:",
    "event:",
    "retry:",
    "\n\n",
    "\r",
    "\r\n",
    "\u{feff}",
    "\0",
    "x-mcp-header",
    "\"properties\":{",
    "mcp-param-a: ",
    "mcp-name: ",
    "mcp-method: ",
    "mcp-protocol-version: ",
    "inputResponses",
    "requestState",
];
const MOST: usize = 4_096;

/// Makes inputs; the same seed makes the same ones.
pub struct Mutator<'a> {
    state: u64,
    seeds: &'a [&'a [u8]],
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, seeds: &'a [&'a [u8]]) -> Self {
        Self { state: seed, seeds }
    }

    /// splitmix64
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; 0 for 0.
    fn below(&mut self, end: usize) -> usize {
        (self.random() % (end.max(1) as u64)) as usize
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        let mut input = self.seeds[at].to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
            input.truncate(MOST);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let len = self.below(16).min(input.len() - at);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.random() as u8,
            2 => drop(input.drain(at..at + len)),
            3 => {
                let copied = input[at..at + len].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copied);
            }
            4 => input.truncate(at),
            5 => {
                let other = self.seeds[self.below(self.seeds.len())];
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            6 => {
                let (from, many) = (self.below(256) as u8, self.below(200));
                input.splice(at..at, std::iter::repeat_n(from, many));
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at + len, word.bytes());
            }
        }
    }
}
