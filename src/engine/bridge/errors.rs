//! Errors of hosted servers of the legacy era that mean something else, or nothing, to a client of 2026-07-28.

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::limits::{ASKS_PER_CALL, URL_ROUNDS};
use crate::rpc::error::{
    HEADER_MISMATCH, INTERNAL, INVALID_PARAMS, MISSING_CAPABILITY, RESOURCE_NOT_FOUND, RpcError,
    UNSUPPORTED_VERSION, URL_ELICITATION,
};
use crate::tools::answer::{failure, raw};
use crate::tools::registry::{Kind, Registered};
use crate::tools::{BoxFuture, Call};

type Outcome = Result<Box<RawValue>, RpcError>;

/// Runs a call that may end with -32042. That error names URLs to be opened: the client is asked to, by the answer to
/// its request, and when it says that they are, the call is made again.
pub(in crate::engine) fn run(target: &Registered, call: Call) -> BoxFuture<'static, Outcome> {
    let target = target.clone();
    Box::pin(async move {
        for _ in 0..URL_ROUNDS {
            let error = match target.run(call.clone()).await {
                Err(error) if error.code == URL_ELICITATION && target.kind != Kind::Completion => error,
                outcome => return outcome,
            };
            let Some(urls) = elicitations(&error) else { return Err(error) };
            for answer in join_all(urls.into_iter().map(|url| call.out.ask("elicitation/create", url))).await
            {
                if !is_accepted(answer?.get()) {
                    return declined(&target, &error);
                }
            }
        }
        Err(RpcError::internal(
            "the server wants a URL opened again and again: its own state does not follow",
        ))
    })
}

/// An error in the form of 2026-07-28, which has other codes, or none, for some.
pub(in crate::engine) fn translated(error: RpcError) -> RpcError {
    let code = match error.code {
        RESOURCE_NOT_FOUND => INVALID_PARAMS,
        kept @ (HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => kept,
        // -32020 to -32099 are the specification's own.
        -32_099..=-32_020 => INTERNAL,
        other => other,
    };
    RpcError { code, ..error }
}

/// The questions that the error stands for; none when it names none that could be asked.
fn elicitations(error: &RpcError) -> Option<Vec<Box<RawValue>>> {
    #[derive(Deserialize)]
    struct Data {
        elicitations: Vec<Elicitation>,
    }
    #[derive(Deserialize)]
    struct Elicitation {
        url: String,
        message: Option<String>,
        #[serde(rename = "elicitationId")]
        id: Option<String>,
    }
    let data: Data = serde_json::from_str(error.data.as_ref()?.get()).ok()?;
    if data.elicitations.is_empty() || data.elicitations.len() > ASKS_PER_CALL {
        return None;
    }
    let question = |it: Elicitation| {
        let message = it.message.unwrap_or_else(|| error.message.to_string());
        let mut params = serde_json::json!({ "mode": "url", "message": message, "url": it.url });
        if let Some(id) = it.id {
            params["elicitationId"] = id.into();
        }
        raw(params.to_string())
    };
    Some(data.elicitations.into_iter().map(question).collect())
}

fn is_accepted(answer: &str) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        action: String,
    }
    serde_json::from_str::<Answer>(answer).is_ok_and(|answer| answer.action == "accept")
}

fn declined(target: &Registered, error: &RpcError) -> Outcome {
    let why = format!("the user did not open the URL that this needs: {}", error.message);
    match target.kind {
        Kind::Tool => Ok(failure(&why)),
        _ => Err(RpcError::internal(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_the_modern_revision_lacks_are_told_in_its_own() {
        for (given, told) in [
            (-32_002, -32_602),
            (-32_042, -32_603),
            (-32_050, -32_603),
            (-32_020, -32_020),
            (-32_021, -32_021),
            (-32_022, -32_022),
            (-32_000, -32_000),
            (-32_602, -32_602),
            (-1, -1),
            (17, 17),
        ] {
            let error = RpcError::new(given, "why").with_data(&serde_json::json!({ "a": 1 }));
            let made = translated(error);
            assert_eq!((made.code, made.message.as_ref()), (told, "why"));
            assert_eq!(made.data.unwrap().get(), r#"{"a":1}"#);
        }
    }

    #[test]
    fn only_an_error_that_names_urls_is_asked_for() {
        let with = |data: serde_json::Value| RpcError::new(URL_ELICITATION, "sign in").with_data(&data);
        let asked = elicitations(&with(serde_json::json!({
            "elicitations": [{ "mode": "url", "url": "https://a", "elicitationId": "e" }, { "url": "https://b", "message": "m" }],
        })))
        .unwrap();
        let asked: Vec<&str> = asked.iter().map(|it| it.get()).collect();
        assert_eq!(
            asked,
            [
                r#"{"elicitationId":"e","message":"sign in","mode":"url","url":"https://a"}"#,
                r#"{"message":"m","mode":"url","url":"https://b"}"#
            ]
        );
        for odd in [
            serde_json::json!({}),
            serde_json::json!({ "elicitations": [] }),
            serde_json::json!({ "elicitations": [{ "url": 1 }] }),
            serde_json::json!({ "elicitations": vec![serde_json::json!({ "url": "u" }); 9] }),
        ] {
            assert!(elicitations(&with(odd.clone())).is_none(), "{odd}");
        }
        assert!(elicitations(&RpcError::new(URL_ELICITATION, "sign in")).is_none());
    }
}
