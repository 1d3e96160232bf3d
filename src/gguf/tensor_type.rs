//! The tensor types of ggml: their ids in a GGUF file and the size of their blocks.

use std::fmt;
use std::str::FromStr;

macro_rules! tensor_types {
    ($($variant:ident = $id:literal, $name:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// A tensor type of ggml, with its id as the discriminant.
        ///
        /// Ids that ggml has withdrawn are not here: a file that uses one is rejected.
        #[allow(missing_docs, non_camel_case_types, reason = "the names are those of ggml and explain themselves")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum TensorType {
            $($variant = $id,)*
        }

        impl TensorType {
            /// All types, in the order of their ids.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Elements of a block, the unit in which rows are stored.
            pub const fn block_len(self) -> usize {
                match self {
                    $(Self::$variant => $block_len,)*
                }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(Self::$variant => $block_bytes,)*
                }
            }

            /// The name that ggml prints.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

tensor_types! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2_K = 10, "q2_K", 256, 84;
    Q3_K = 11, "q3_K", 256, 110;
    Q4_K = 12, "q4_K", 256, 144;
    Q5_K = 13, "q5_K", 256, 176;
    Q6_K = 14, "q6_K", 256, 210;
    Q8_K = 15, "q8_K", 256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    IQ2_XS = 17, "iq2_xs", 256, 74;
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    IQ1_S = 19, "iq1_s", 256, 50;
    IQ4_NL = 20, "iq4_nl", 32, 18;
    IQ3_S = 21, "iq3_s", 256, 110;
    IQ2_S = 22, "iq2_s", 256, 82;
    IQ4_XS = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    IQ1_M = 29, "iq1_m", 256, 56;
    BF16 = 30, "bf16", 1, 2;
    TQ1_0 = 34, "tq1_0", 256, 54;
    TQ2_0 = 35, "tq2_0", 256, 66;
    MXFP4 = 39, "mxfp4", 32, 17;
    NVFP4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
    Q2_0 = 42, "q2_0", 64, 18;
}

impl TensorType {
    /// The type with this id, unless ggml does not have it (any more).
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|ty| ty.id() == id)
    }

    /// The id in ggml and in GGUF files.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a row of `ne0` elements; `None` if the row is not a whole number of blocks or its
    /// size overflows.
    pub const fn row_bytes(self, ne0: usize) -> Option<usize> {
        if ne0.is_multiple_of(self.block_len()) {
            (ne0 / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Whether ggml can multiply a matrix of this type with activations (`mul_mat`, `mul_mat_id`)
    /// and look up its rows (`get_rows`). The integer types, F64 and the two types that only hold
    /// activations cannot.
    pub const fn is_multipliable(self) -> bool {
        !matches!(
            self,
            Self::I8 | Self::I16 | Self::I32 | Self::I64 | Self::F64 | Self::Q8_1 | Self::Q8_K
        )
    }

    /// Whether rows can be quantized to this type without an importance matrix. That leaves out
    /// the types below three bits that are useless (or impossible) without one, and those that
    /// only models trained for them use.
    pub const fn is_quantizable(self) -> bool {
        matches!(
            self,
            Self::F32
                | Self::F16
                | Self::BF16
                | Self::Q4_0
                | Self::Q4_1
                | Self::Q5_0
                | Self::Q5_1
                | Self::Q8_0
                | Self::Q2_K
                | Self::Q3_K
                | Self::Q4_K
                | Self::Q5_K
                | Self::Q6_K
                | Self::IQ4_NL
                | Self::IQ4_XS
        )
    }

    /// Whether it stores its elements in blocks with common scales.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// This type if rows of `row_len` elements can be stored in it, else the one that llama.cpp's
    /// quantizer uses instead: one with blocks of 32, or F16.
    pub const fn for_rows_of(self, row_len: usize) -> Self {
        let smaller = match self {
            Self::Q2_K | Self::Q3_K => Self::Q4_0,
            Self::Q4_K => Self::Q5_0,
            Self::Q5_K => Self::Q5_1,
            Self::Q6_K => Self::Q8_0,
            Self::IQ4_XS => Self::IQ4_NL,
            other => other,
        };
        if row_len.is_multiple_of(self.block_len()) {
            self
        } else if row_len.is_multiple_of(smaller.block_len()) {
            smaller
        } else {
            Self::F16
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The one of `all` with this name, in upper or lower case. The error lists the names.
pub(crate) fn find_by_name<T: Copy>(
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
    what: &str,
    name: &str,
) -> Result<T, String> {
    let known = all
        .iter()
        .find(|one| name_of(**one).eq_ignore_ascii_case(name));
    known.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name_of(*one)).collect();
        format!(
            "unknown {what} '{name}', expected one of {}",
            names.join(", ")
        )
    })
}

impl FromStr for TensorType {
    type Err = String;

    /// Parses a name of ggml, in upper or lower case. The error lists the names.
    fn from_str(name: &str) -> Result<Self, String> {
        find_by_name(Self::ALL, |ty| ty.name(), "tensor type", name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back_to_the_type() {
        for &ty in TensorType::ALL {
            assert_eq!(TensorType::from_id(ty.id()), Some(ty));
            assert_eq!(ty.name().parse(), Ok(ty));
            assert_eq!(ty.name().to_uppercase().parse(), Ok(ty));
        }
        for withdrawn in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(TensorType::from_id(withdrawn), None);
        }
        assert!("q4_9".parse::<TensorType>().unwrap_err().contains("'q4_9'"));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_another_type() {
        for (ty, row_len, expected) in [
            (TensorType::Q4_K, 2816, TensorType::Q4_K),
            (TensorType::Q4_K, 704, TensorType::Q5_0),
            (TensorType::Q5_K, 2112, TensorType::Q5_1),
            (TensorType::Q6_K, 704, TensorType::Q8_0),
            (TensorType::Q4_K, 20, TensorType::F16),
            (TensorType::Q8_0, 20, TensorType::F16),
            (TensorType::BF16, 1, TensorType::BF16),
        ] {
            assert_eq!(ty.for_rows_of(row_len), expected, "{ty}, {row_len}");
        }
        for &ty in TensorType::ALL.iter().filter(|ty| ty.is_quantizable()) {
            assert!(ty.for_rows_of(32).is_quantizable() && ty.is_multipliable());
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(TensorType::F32.row_bytes(3), Some(12));
        assert_eq!(TensorType::Q8_0.row_bytes(64), Some(68));
        assert_eq!(TensorType::Q8_0.row_bytes(33), None);
        assert_eq!(TensorType::Q4_K.row_bytes(2816), Some(2816 / 256 * 144));
        assert_eq!(TensorType::Q4_K.row_bytes(704), None);
        assert_eq!(TensorType::F32.row_bytes(usize::MAX), None);
    }
}
