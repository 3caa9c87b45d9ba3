//! The server on a pair of pipes: one JSON-RPC message per line, nothing else on the output (MCP 2025-11-25,
//! transports, stdio).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::auth::Principal;
use crate::engine::{Conversation, Engine};
use crate::rpc::error::{PARSE_ERROR, RpcError};
use crate::rpc::message::error_response;

/// Serves the peer on `input` and `output` until its input ends or `stop` fires. `longest`: a line, bytes. `linger`:
/// how long requests that were sent before the end may take to be answered.
///
/// # Errors
/// When `output` cannot be written, or `input` not be read.
pub async fn serve(
    engine: Arc<Engine>,
    principal: Arc<Principal>,
    input: impl tokio::io::AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    longest: usize,
    linger: Duration,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let (conversation, mut said) = Conversation::new(engine, principal, "stdio".into());
    let mut output = output;
    let writer = tokio::spawn(async move {
        while let Some(message) = said.recv().await {
            write_line(&mut output, &message).await?;
            // What waits goes out together.
            while let Ok(message) = said.try_recv() {
                write_line(&mut output, &message).await?;
            }
            output.flush().await?;
        }
        output.flush().await
    });
    let mut input = BufReader::new(input);
    let read = loop {
        let line = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            line = read_line(&mut input, longest) => line,
        };
        match line {
            Ok(Line::End) => break Ok(()),
            Ok(Line::Message(line)) if line.trim_ascii().is_empty() => {}
            Ok(Line::Message(line)) => conversation.take(line).await,
            Ok(Line::TooLong) => {
                let error = RpcError::new(PARSE_ERROR, format!("a line is longer than {longest} bytes"));
                conversation.say(error_response(None, &error)).await;
            }
            Err(error) => break Err(error),
        }
        if writer.is_finished() {
            break Ok(());
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(linger, conversation.settled()) => {}
        () = stop.cancelled() => {}
    }
    conversation.end().await;
    drop(conversation);
    match tokio::time::timeout(Duration::from_secs(2), writer).await {
        Ok(Ok(written)) => read.and(written),
        _ => read,
    }
}

async fn write_line(output: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    if message.contains(&b'\n') {
        // Between the tokens of JSON text a line break is as good as a blank.
        let line: Vec<u8> = message.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
        output.write_all(&line).await?;
    } else {
        output.write_all(message).await?;
    }
    output.write_all(b"\n").await
}

enum Line {
    Message(Bytes),
    /// It was read over.
    TooLong,
    End,
}

async fn read_line(input: &mut (impl AsyncBufRead + Unpin), longest: usize) -> std::io::Result<Line> {
    let (mut line, mut too_long) = (Vec::new(), false);
    loop {
        let buffer = input.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(match (too_long, line.is_empty()) {
                (true, _) => Line::TooLong,
                (false, true) => Line::End,
                (false, false) => Line::Message(line.into()),
            });
        }
        let (part, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (buffer.get(..at).unwrap_or_default(), true),
            None => (buffer, false),
        };
        too_long |= line.len() + part.len() > longest;
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(ended);
        input.consume(used);
        if ended {
            return Ok(if too_long { Line::TooLong } else { Line::Message(line.into()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], longest: usize) -> Vec<Option<String>> {
        let mut input = BufReader::with_capacity(3, text);
        let mut lines = Vec::new();
        loop {
            match read_line(&mut input, longest).await.unwrap() {
                Line::End => return lines,
                Line::TooLong => lines.push(None),
                Line::Message(line) => lines.push(Some(String::from_utf8(line.to_vec()).unwrap())),
            }
        }
    }

    #[tokio::test]
    async fn lines_are_read_whole_and_long_ones_are_read_over() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(lines(b"a\nbcdefg\n\nh", 10).await, [some("a"), some("bcdefg"), some(""), some("h")]);
        assert_eq!(lines(b"a\nbcdefg\nh\n", 5).await, [some("a"), None, some("h")]);
        assert_eq!(lines(b"bcdefg", 5).await, [None]);
        assert!(lines(b"", 5).await.is_empty());
    }

    #[tokio::test]
    async fn a_message_stays_on_one_line() {
        let mut out = Vec::new();
        write_line(&mut out, b"{\n\"a\":1}").await.unwrap();
        assert_eq!(out, b"{ \"a\":1}\n");
    }
}
