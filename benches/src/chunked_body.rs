//! A body in chunks (`transfer-encoding: chunked`, RFC 9112), taken apart as its bytes come, and the events in it.

/// Takes the frames of chunks off a body.
#[derive(Debug, Default)]
pub(crate) struct ChunkedBody {
    state: State,
    /// Bytes of the body that are no whole event yet.
    event: Vec<u8>,
}

#[derive(Debug, Default)]
enum State {
    /// In the line with a chunk's size.
    #[default]
    Start,
    Size {
        size: usize,
        in_extension: bool,
    },
    /// So many bytes of a chunk are to come, then the end of its line.
    Data(usize),
    /// In the end of a chunk's line.
    End,
    /// In the lines after the last chunk: whether the line so far is empty.
    Trailer(bool),
    Done,
}

impl ChunkedBody {
    /// Whether the last chunk has come.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes what came from the connection, and gives each whole event of it to `each`, without the blank line after it.
    /// `None` when the bytes are no such body.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) -> Option<()> {
        while let [first, rest @ ..] = bytes {
            match &mut self.state {
                State::Start => {
                    self.state = State::Size { size: 0, in_extension: false };
                    continue;
                }
                State::Size { size, in_extension } => match first {
                    b'\n' if *size == 0 => self.state = State::Trailer(true),
                    b'\n' => self.state = State::Data(*size),
                    b'\r' => {}
                    b';' => *in_extension = true,
                    _ if *in_extension => {}
                    digit => {
                        let digit = char::from(*digit).to_digit(16)? as usize;
                        *size = size.checked_mul(16)?.checked_add(digit)?;
                    }
                },
                State::Data(left) => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    if *left == 0 {
                        self.state = State::End;
                    }
                    self.event.extend_from_slice(&bytes[..count]);
                    self.tell(&mut each);
                    bytes = &bytes[count..];
                    continue;
                }
                State::End => match first {
                    b'\r' => {}
                    b'\n' => self.state = State::Start,
                    _ => return None,
                },
                State::Trailer(is_empty) => match first {
                    b'\r' => {}
                    b'\n' if *is_empty => self.state = State::Done,
                    b'\n' => *is_empty = true,
                    _ => *is_empty = false,
                },
                State::Done => return None,
            }
            bytes = rest;
        }
        Some(())
    }

    fn tell(&mut self, each: &mut impl FnMut(&[u8])) {
        while let Some(end) = self.event.windows(2).position(|two| two == b"\n\n") {
            each(&self.event[..end]);
            self.event.drain(..end + 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"9\r\ndata: a\n\n\r\nC;x=1\r\ndata: b\n\ndat\r\n6\r\na: c\n\n\r\n0\r\n\r\n";

    #[test]
    fn events_are_told_whole_however_the_bytes_come() {
        for step in 1..BODY.len() {
            let (mut body, mut events) = (ChunkedBody::default(), vec![]);
            for part in BODY.chunks(step) {
                assert!(!body.is_done());
                body.take(part, |event| events.push(event.to_vec())).expect("a body");
            }
            assert!(body.is_done() && events == [b"data: a", b"data: b", b"data: c"], "{step}");
        }
    }

    #[test]
    fn what_is_no_such_body_is_refused() {
        for wrong in [&b"x\r\n"[..], b"1\r\nabc", b"fffffffffffffffff\r\n", b"0\r\n\r\nmore"] {
            assert_eq!(ChunkedBody::default().take(wrong, |_| ()), None, "{wrong:?}");
        }
    }
}
