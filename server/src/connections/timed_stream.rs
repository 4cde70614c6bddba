//! A stream that ends with an error when its client keeps it waiting too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::clock::ConnectionClock;
use super::{ConnectionMetrics, Late};

/// A stream under a [`ConnectionClock`].
pub(super) struct TimedStream<S> {
    inner: S,
    clock: Arc<ConnectionClock>,
    metrics: ConnectionMetrics,
    reading: Alarm,
    writing: Alarm,
    /// Since when the client has not taken what is written.
    stalled: Option<Instant>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(inner: S, clock: Arc<ConnectionClock>, metrics: ConnectionMetrics) -> Self {
        Self { inner, clock, metrics, reading: Alarm(None), writing: Alarm(None), stalled: None }
    }

    /// Takes what a write came to; one that waits has a deadline.
    fn written<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.clock.bytes_went();
            return written;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        if self.writing.rings(self.clock.write_deadline(since), context) {
            return Poll::Ready(Err(self.late(Late::Reading)));
        }
        Poll::Pending
    }

    fn late(&self, late: Late) -> io::Error {
        self.metrics.late(late);
        io::Error::new(io::ErrorKind::TimedOut, "the client is late")
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.clock.bytes_came();
        }
        if read.is_ready() {
            return read;
        }
        let deadline = match (this.clock.deadline(), this.stalled) {
            // The reply is not taken yet, so that no request can be due.
            (Some((_, Late::Idle)), Some(since)) => Some((this.clock.write_deadline(since), Late::Reading)),
            (deadline, _) => deadline,
        };
        match deadline {
            Some((deadline, late)) if this.reading.rings(deadline, context) => {
                Poll::Ready(Err(this.late(late)))
            }
            Some(_) => Poll::Pending,
            None => {
                this.clock.wake_when_idle(context.waker());
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.written(shut, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// A timer that is made when it is first needed and then moved.
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether the deadline has passed; if not, the task is woken when it has.
    fn rings(&mut self, deadline: Instant, context: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::super::ConnectionRules;
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    fn timed() -> (DuplexStream, TimedStream<DuplexStream>, Arc<ConnectionClock>) {
        let (client, server) = duplex(16);
        let rules = ConnectionRules { max_connections: 1, header_read_timeout: HEAD, idle_timeout: IDLE };
        let clock = Arc::new(ConnectionClock::new(rules));
        (client, TimedStream::new(server, Arc::clone(&clock), ConnectionMetrics::default()), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_since_the_request_is_told_when_the_idle_time_begins() {
        let (_client, mut stream, clock) = timed();
        let serving = clock.serving();
        let began = Instant::now();
        let reading = tokio::spawn(async move { stream.read_u8().await });
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert!(!reading.is_finished());
        drop(serving);
        let error = reading.await.expect("no panic").expect_err("late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 500 + IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_has_the_idle_time_from_the_last_byte_taken() {
        let (mut client, mut stream, _clock) = timed();
        let began = Instant::now();
        let writing = tokio::spawn(async move { stream.write_all(&[0; 64]).await });
        for _ in 0..3 {
            tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
            client.read_exact(&mut [0; 8]).await.expect("bytes");
        }
        let error = writing.await.expect("no panic").expect_err("late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3 * (IDLE.as_secs() - 1) + IDLE.as_secs());
    }
}
