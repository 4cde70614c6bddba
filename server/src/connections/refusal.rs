//! What a connection over the bound gets: an answer that costs next to nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::wire::error::ApiError;

/// Refusals under way at once; connections beyond are closed without a word.
const MOST_REFUSALS: usize = 256;
/// How long a refused client may take to read.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Refuses connections.
pub(super) struct Refusals {
    reply: Arc<[u8]>,
    places: Arc<Semaphore>,
    is_silent: bool,
}

impl Refusals {
    /// Refusals that name the bound. Behind TLS they are silent: the handshake would be the larger part of the work.
    pub(super) fn new(max_connections: usize, is_silent: bool) -> Self {
        let message = format!(
            "{max_connections} connections are open, no more are taken (--max-connections): try again shortly"
        );
        let error = ApiError::rate_limit("too_many_connections", message);
        let body = error.to_json();
        let reply = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
             connection: close\r\n\r\n{body}",
            StatusCode::TOO_MANY_REQUESTS,
            body.len()
        );
        let places = Arc::new(Semaphore::new(MOST_REFUSALS));
        Self { reply: reply.into_bytes().into(), places, is_silent }
    }

    /// Answers, whatever is asked, and closes.
    pub(super) fn refuse(&self, mut stream: TcpStream) {
        if self.is_silent {
            return;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let reply = Arc::clone(&self.reply);
        tokio::spawn(async move {
            let _place = place;
            let answering = async {
                stream.write_all(&reply).await?;
                stream.shutdown().await?;
                // What is closed with unread bytes in it is reset, and the client would never see the reply.
                let mut unread = [0; 4096];
                while stream.read(&mut unread).await? > 0 {}
                std::io::Result::Ok(())
            };
            // Whether the client reads it or not, that was all.
            let _ = tokio::time::timeout(REFUSAL_TIME, answering).await;
        });
    }
}
