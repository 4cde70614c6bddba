//! A reply's body that keeps its request's place until it is handed over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are handed over at once. A connection asks for more when what it holds is nearly written, so a client that
/// does not read keeps the place, and its reply counts among those in flight for as long as it is in memory.
const PIECE: usize = 64 << 10;

/// A body in pieces, and the place that falls with it.
pub struct HeldBody {
    inner: Body,
    /// What is left of the inner body's last frame.
    rest: Bytes,
    _place: OwnedSemaphorePermit,
}

impl HeldBody {
    /// `inner`, which holds `place`.
    pub fn new(inner: Body, place: OwnedSemaphorePermit) -> Self {
        Self { inner, rest: Bytes::new(), _place: place }
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = PIECE.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::to_bytes;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_body_comes_whole_and_its_place_is_free_afterwards() {
        for length in [0, 1, PIECE, 3 * PIECE + 1] {
            let places = Arc::new(Semaphore::new(1));
            let place = Arc::clone(&places).try_acquire_owned().expect("a place");
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let body = HeldBody::new(Body::from(bytes.clone()), place);
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            assert_eq!(places.available_permits(), 0);
            assert_eq!(to_bytes(Body::new(body), usize::MAX).await.expect("all of it"), bytes);
            assert_eq!(places.available_permits(), 1);
        }
    }

    #[tokio::test]
    async fn what_was_not_taken_keeps_the_place() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().expect("a place");
        let mut body = HeldBody::new(Body::from(vec![7; 2 * PIECE]), place);
        let first = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert_eq!(first.expect("a frame").expect("data").into_data().expect("data").len(), PIECE);
        assert_eq!((places.available_permits(), body.size_hint().exact()), (0, Some(PIECE as u64)));
        drop(body);
        assert_eq!(places.available_permits(), 1);
    }
}
