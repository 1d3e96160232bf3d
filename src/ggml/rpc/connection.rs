//! A connection to an RPC server: the address, the handshake, and requests that the server answers
//! immediately.

use std::fmt::Display;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::protocol::{Command, HELLO, Version, number};

/// Maximum wait for what costs a server nothing: the connection, the handshake, its devices.
const PROMPT: Duration = Duration::from_secs(10);
/// Buffer size for requests and replies in transit: as much as goes through a socket at once.
pub(super) const CHUNK: usize = 256 << 10;
/// The limit of ggml's scheduler.
const MAX_DEVICES: u32 = 16;
/// Larger alignments are errors.
const MAX_ALIGNMENT: u64 = 1 << 30;
/// Larger sizes are errors: sums of them would overflow.
pub(super) const MAX_SIZE: u64 = 1 << 48;

/// What a server reports once about a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceFacts {
    /// Alignment of tensors in its buffers, in bytes: a power of two.
    pub(super) alignment: u64,
    /// Maximum size of a buffer in bytes, as ggml uses it.
    pub(super) max_size: u64,
}

/// A connection after the handshake.
pub(super) struct Connection {
    pub(super) reader: BufReader<TcpStream>,
    pub(super) writer: BufWriter<TcpStream>,
}

/// Splits `HOST:PORT` or `[IPV6]:PORT`.
pub(super) fn parse(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host, port))
}

/// The text of an error of a connection to a server.
pub(super) fn problem(error: &io::Error, waited: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("there was no answer for {} s", waited.as_secs_f32())
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => "the server closed the connection".into(),
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: start the server, and check host and port".into()
        }
        io::ErrorKind::InvalidData => "the server sent a reply that makes no sense".into(),
        _ => error.to_string(),
    }
}

fn invalid(what: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Connection {
    /// Connects, and agrees on the version of the protocol.
    ///
    /// # Errors
    /// A description of what is wrong with the server.
    pub(super) fn open(host: &str, port: u16, timeout: Duration) -> Result<Self, String> {
        let prompt = timeout.min(PROMPT);
        let addresses = (host, port)
            .to_socket_addrs()
            .map_err(|error| format!("the name '{host}' was not resolved: {error}"))?;
        let mut refusal = format!("the name '{host}' has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, prompt) {
                Ok(stream) => return Self::greet(stream, prompt),
                Err(error) => refusal = problem(&error, prompt),
            }
        }
        Err(refusal)
    }

    fn greet(stream: TcpStream, timeout: Duration) -> Result<Self, String> {
        let failed = |error: io::Error| problem(&error, timeout);
        let mut this = Self::over(stream, timeout).map_err(failed)?;
        let version = this.hello().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
                "{}: it is not an RPC server, or it serves another client (llama.cpp's serves one \
                 at a time)",
                failed(error)
            ),
            _ => format!(
                "{} during the handshake: it is not an RPC server, or its version of the protocol \
                 is not {}",
                failed(error),
                Version::OURS
            ),
        })?;
        if !version.serves_us() {
            return Err(format!(
                "the server's version of the protocol is {version}, this library's is {}: build \
                 both from the same release of llama.cpp",
                Version::OURS
            ));
        }
        Ok(this)
    }

    fn over(stream: TcpStream, timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let this = Self {
            writer: BufWriter::with_capacity(CHUNK, stream.try_clone()?),
            reader: BufReader::with_capacity(CHUNK, stream),
        };
        this.set_timeout(timeout)?;
        Ok(this)
    }

    /// How long the server may send or read nothing before a call fails.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let stream = self.writer.get_ref();
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))
    }

    fn hello(&mut self) -> io::Result<Version> {
        self.send(Command::Hello, &HELLO)?;
        // Older versions reply with less; all begin with the version.
        let size = self.reply_size()?;
        if !(3..=64).contains(&size) {
            return Err(invalid("size of HELLO"));
        }
        let mut reply = [0; 64];
        self.reader.read_exact(&mut reply[..size as usize])?;
        Ok(Version([reply[0], reply[1], reply[2]]))
    }

    /// Sends a complete request.
    fn send(&mut self, command: Command, payload: &[u8]) -> io::Result<()> {
        self.writer
            .write_all(&command.header(payload.len() as u64))?;
        self.writer.write_all(payload)?;
        self.writer.flush()
    }

    pub(super) fn reply_size(&mut self) -> io::Result<u64> {
        let mut size = [0; 8];
        self.reader.read_exact(&mut size)?;
        Ok(u64::from_le_bytes(size))
    }

    /// Reads a reply that must have this size.
    pub(super) fn reply(&mut self, into: &mut [u8]) -> io::Result<()> {
        if self.reply_size()? != into.len() as u64 {
            return Err(invalid("size of a reply"));
        }
        self.reader.read_exact(into)
    }

    fn ask<const SIZE: usize>(
        &mut self,
        command: Command,
        payload: &[u8],
    ) -> io::Result<[u8; SIZE]> {
        self.send(command, payload)?;
        let mut reply = [0; SIZE];
        self.reply(&mut reply)?;
        Ok(reply)
    }

    /// The devices of the server.
    ///
    /// # Errors
    /// It has no devices, or reports impossible values.
    pub(super) fn devices(&mut self) -> io::Result<Vec<DeviceFacts>> {
        let count = u32::from_le_bytes(self.ask(Command::DeviceCount, &[])?);
        if !(1..=MAX_DEVICES).contains(&count) {
            return Err(io::Error::other(format!(
                "the server offers {count} devices, expected 1 to {MAX_DEVICES}"
            )));
        }
        let facts = |device: u32| {
            let device = device.to_le_bytes();
            let facts = DeviceFacts {
                alignment: u64::from_le_bytes(self.ask(Command::GetAlignment, &device)?),
                max_size: u64::from_le_bytes(self.ask(Command::GetMaxSize, &device)?),
            };
            if !facts.alignment.is_power_of_two() || facts.alignment > MAX_ALIGNMENT {
                return Err(invalid("alignment"));
            }
            Ok(facts)
        };
        (0..count).map(facts).collect()
    }
}

/// Checks values that would make ggml stop the process, or that it would use without checking.
pub(super) fn check_reply(
    command: Command,
    request: &[u8],
    reply: &[u8],
    alignment: u64,
) -> io::Result<()> {
    let at = |offset| number(reply, offset).unwrap_or_default();
    let sensible = match command {
        Command::AllocBuffer => {
            let asked = number(request, 4).unwrap_or_default();
            at(0) == 0 || (asked..=MAX_SIZE).contains(&at(8))
        }
        Command::BufferGetBase => {
            let base = at(0);
            base != 0 && base % alignment == 0 && base < u64::MAX - MAX_SIZE
        }
        Command::GetAllocSize => at(0) <= MAX_SIZE,
        Command::GetDeviceMemory => at(0) <= MAX_SIZE && at(8) <= MAX_SIZE,
        _ => true,
    };
    match sensible {
        true => Ok(()),
        false => Err(invalid(format!("reply to {command:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(parse("gpu-box:50052"), Some(("gpu-box", 50052)));
        assert_eq!(parse("10.0.0.7:1"), Some(("10.0.0.7", 1)));
        assert_eq!(parse("[::1]:50052"), Some(("::1", 50052)));
        for wrong in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "host:x",
            "::1:50052",
            "[::1:5",
            "[]:5",
            "::1]:5",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn replies_that_make_no_sense_are_refused() {
        let words = |words: &[u64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let alloc = [&[0; 4][..], &1000_u64.to_le_bytes()].concat();
        for (command, reply, is_good) in [
            (Command::AllocBuffer, words(&[5, 1000]), true),
            (Command::AllocBuffer, words(&[5, 999]), false),
            (Command::AllocBuffer, words(&[0, 0]), true),
            (Command::AllocBuffer, words(&[5, u64::MAX]), false),
            (Command::BufferGetBase, words(&[64]), true),
            (Command::BufferGetBase, words(&[0]), false),
            (Command::BufferGetBase, words(&[65]), false),
            (Command::BufferGetBase, words(&[u64::MAX - 31]), false),
            (Command::GetAllocSize, words(&[4096]), true),
            (Command::GetAllocSize, words(&[u64::MAX]), false),
            (Command::GetDeviceMemory, words(&[1, 2]), true),
            (Command::GetDeviceMemory, words(&[u64::MAX, 2]), false),
        ] {
            let checked = check_reply(command, &alloc, &reply, 32);
            assert_eq!(checked.is_ok(), is_good, "{command:?} {reply:?}");
        }
    }
}
