//! The protocol of ggml's RPC backend: its commands, and how large their replies are.
//!
//! A request is a command (1 byte), the size of its payload (8 bytes) and the payload. A reply is a
//! size (8 bytes) and a payload. Numbers are little-endian, structs are packed. Either side closes
//! the connection if it cannot accept what it reads.

use crate::sys;

/// Commands and sizes below are those of this version of the protocol.
const _: () = assert!(sys::RPC_PROTO_MAJOR_VERSION == 7 && sys::RPC_PROTO_MINOR_VERSION == 0);

/// The commands of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Command {
    AllocBuffer,
    GetAlignment,
    GetMaxSize,
    BufferGetBase,
    FreeBuffer,
    BufferClear,
    SetTensor,
    SetTensorHash,
    GetTensor,
    CopyTensor,
    GraphCompute,
    GetDeviceMemory,
    InitTensor,
    GetAllocSize,
    Hello,
    DeviceCount,
    GraphRecompute,
    MemsetTensor,
}

/// How large a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    None,
    Bytes(usize),
    /// The last 8 bytes of the request contain it.
    AsAsked,
}

impl Command {
    /// In the order of their numbers.
    const ALL: [Self; 18] = [
        Self::AllocBuffer,
        Self::GetAlignment,
        Self::GetMaxSize,
        Self::BufferGetBase,
        Self::FreeBuffer,
        Self::BufferClear,
        Self::SetTensor,
        Self::SetTensorHash,
        Self::GetTensor,
        Self::CopyTensor,
        Self::GraphCompute,
        Self::GetDeviceMemory,
        Self::InitTensor,
        Self::GetAllocSize,
        Self::Hello,
        Self::DeviceCount,
        Self::GraphRecompute,
        Self::MemsetTensor,
    ];

    /// The command with a number, if there is one.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The server's answer.
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::AllocBuffer | Self::GetDeviceMemory => Reply::Bytes(16),
            Self::GetAlignment | Self::GetMaxSize | Self::BufferGetBase | Self::GetAllocSize => {
                Reply::Bytes(8)
            }
            Self::SetTensorHash | Self::CopyTensor => Reply::Bytes(1),
            Self::DeviceCount => Reply::Bytes(4),
            Self::Hello => Reply::Bytes(HELLO_REPLY),
            Self::GetTensor => Reply::AsAsked,
            Self::FreeBuffer
            | Self::BufferClear
            | Self::SetTensor
            | Self::GraphCompute
            | Self::InitTensor
            | Self::GraphRecompute
            | Self::MemsetTensor => Reply::None,
        }
    }

    /// The command and the size of its payload, as they are sent.
    pub(super) fn header(self, size: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = self as u8;
        header[1..].copy_from_slice(&size.to_le_bytes());
        header
    }
}

/// Bytes before the payload of a request.
pub(super) const HEADER: usize = 9;
/// Bytes in which both sides list faster transports that they support.
const CAPABILITIES: usize = 24;
/// Bytes of the reply to [`Command::Hello`].
const HELLO_REPLY: usize = 4 + CAPABILITIES;

/// The first request of a connection: no transport but this one.
pub(super) const HELLO: [u8; CAPABILITIES] = [0; CAPABILITIES];

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(pub(super) [u8; 3]);

impl Version {
    /// The version of this build.
    pub(super) const OURS: Self = Self([
        sys::RPC_PROTO_MAJOR_VERSION as u8,
        sys::RPC_PROTO_MINOR_VERSION as u8,
        sys::RPC_PROTO_PATCH_VERSION as u8,
    ]);

    /// Whether a server of this version supports all requests of a client of this build.
    pub(super) fn serves_us(self) -> bool {
        self.0[0] == Self::OURS.0[0] && self.0[1] <= Self::OURS.0[1]
    }

    /// The reply to [`Command::Hello`].
    pub(super) fn hello_reply(self) -> [u8; HELLO_REPLY] {
        let mut reply = [0; HELLO_REPLY];
        reply[..3].copy_from_slice(&self.0);
        reply
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The number at a byte offset of a message that is long enough.
pub(super) fn number(message: &[u8], offset: usize) -> Option<u64> {
    let bytes = message.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_numbers_of_the_protocol() {
        for (number, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command as usize, number);
            assert_eq!(Command::from_number(number as u8), Some(command));
        }
        // ggml fixes the number of HELLO for all versions.
        assert_eq!(Command::Hello as u8, 14);
        assert_eq!(Command::from_number(18), None);
    }

    #[test]
    fn servers_of_the_same_major_version_that_are_not_newer_serve_us() {
        let [major, minor, patch] = Version::OURS.0;
        assert!(Version::OURS.serves_us());
        assert!(Version([major, minor, patch.wrapping_add(1)]).serves_us());
        assert!(!Version([major, minor + 1, 0]).serves_us());
        assert!(!Version([major - 1, minor, 0]).serves_us());
    }
}
