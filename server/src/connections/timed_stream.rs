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
        if read.is_pending()
            && let Some((deadline, late)) = this.clock.deadline()
            && this.reading.rings(deadline, context)
        {
            return Poll::Ready(Err(this.late(late)));
        }
        read
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
