//! Credentials that an external API knows: it is asked whether they are good.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use serde::Deserialize;

use crate::base::limits::VERDICT_BYTES;

/// What the API says of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are good.
    Good,
    /// They are not, in the API's words.
    Bad(String),
    /// It did not say: whether they are good is not known.
    Unknown(String),
}

/// The API: `POST` of a JSON object, answered `{"status": "success"}` or `{"status": "error", "error": "…"}`.
#[derive(Debug)]
pub struct External {
    url: String,
    within: Duration,
    client: OnceLock<Client>,
}

impl External {
    /// The API at this address, which has to answer within this time.
    #[must_use]
    pub fn new(url: &str, within: Duration) -> Self {
        Self { url: url.to_owned(), within, client: OnceLock::new() }
    }

    /// Asks about credentials, a JSON object. Never follows a redirect: they are for this address.
    pub async fn check(&self, credentials: String) -> Verdict {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => {
                return Verdict::Unknown(format!("the validation service cannot be asked: {error}"));
            }
        };
        match tokio::time::timeout(self.within, ask(client, &self.url, credentials)).await {
            Ok(Ok((status, body))) => judge(status, &body),
            // Without the address, which may carry a secret of the operator's.
            Ok(Err(error)) if error.is_connect() => {
                tracing::debug!(error = %error.without_url(), "the validation service cannot be reached");
                Verdict::Unknown("Cannot connect to validation service".into())
            }
            Ok(Err(error)) => {
                Verdict::Unknown(format!("The validation service broke off: {}", error.without_url()))
            }
            Err(_) => {
                Verdict::Unknown(format!("Validation request timed out after {} s", self.within.as_secs()))
            }
        }
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }
}

async fn ask(client: &Client, url: &str, body: String) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
    let request = client.post(url).header("content-type", "application/json").body(body);
    let mut response = request.send().await?;
    let mut answer = Vec::new();
    while let Some(part) = response.chunk().await? {
        answer.extend_from_slice(&part);
        if answer.len() > VERDICT_BYTES {
            break;
        }
    }
    Ok((response.status(), answer))
}

fn judge(status: StatusCode, body: &[u8]) -> Verdict {
    #[derive(Deserialize)]
    struct Said {
        status: Option<String>,
        error: Option<serde_json::Value>,
    }
    let said: Option<Said> = serde_json::from_slice(body).ok();
    let error = said.as_ref().and_then(|said| said.error.as_ref()).map(|error| match error.as_str() {
        Some(text) => text.to_owned(),
        None => error.to_string(),
    });
    let word = said.as_ref().and_then(|said| said.status.as_deref());
    match (status, word) {
        (status, Some("success" | "ok")) if status.is_success() => Verdict::Good,
        (status, Some("error")) if status.is_success() => {
            Verdict::Bad(error.unwrap_or_else(|| "Authentication failed".into()))
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Verdict::Bad(error.unwrap_or_else(|| format!("Authentication failed: {status}")))
        }
        (StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY, _) => {
            Verdict::Bad(format!("API validation failed: {}", error.unwrap_or_else(|| status.to_string())))
        }
        (status, _) if status.is_success() => {
            Verdict::Unknown("Unexpected response from validation service".into())
        }
        (status, _) => Verdict::Unknown(format!("HTTP error during validation: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_api_says_of_the_credentials_is_a_verdict() {
        let judged = |status: u16, body: &str| judge(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(judged(200, r#"{"status":"success","user":1}"#), Verdict::Good);
        assert_eq!(
            judged(200, r#"{"status":"error","error":"Token expired"}"#),
            Verdict::Bad("Token expired".into())
        );
        assert!(
            matches!(judged(401, "<html>"), Verdict::Bad(text) if text.starts_with("Authentication failed"))
        );
        assert!(matches!(judged(403, r#"{"error":"no"}"#), Verdict::Bad(text) if text == "no"));
        assert!(
            matches!(judged(400, r#"{"error":{"code":7}}"#), Verdict::Bad(text) if text.ends_with("{\"code\":7}"))
        );
        for (status, body) in
            [(200, "{}"), (200, "not json"), (500, r#"{"status":"success"}"#), (302, ""), (404, "")]
        {
            assert!(matches!(judged(status, body), Verdict::Unknown(_)), "{status} {body}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_has_said_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/settings/validate", listener.local_addr().unwrap());
        let silent = External::new(&url, Duration::from_millis(200));
        let verdict = silent.check("{}".into()).await;
        assert!(matches!(&verdict, Verdict::Unknown(text) if text.contains("timed out")), "{verdict:?}");
        drop(listener);
        let verdict = External::new(&url, Duration::from_secs(20)).check("{}".into()).await;
        assert_eq!(verdict, Verdict::Unknown("Cannot connect to validation service".into()));
    }
}
