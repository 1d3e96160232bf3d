//! Keys and values of cached positions, copied to the host and back.

use std::ops::Range;

use super::kv_cache::LayerCache;
use super::mask::KeyLayout;
use crate::error::{Error, Result};
use crate::ggml::tensor::Tensor;
use crate::parameter::Parameter;

/// Keys and values of a range of positions in the layers of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheRows {
    /// The positions.
    pub(crate) positions: Range<usize>,
    /// For each layer the keys, then the values: a row for each position, in the type of the cache.
    pub(crate) rows: Vec<Vec<u8>>,
}

impl CacheRows {
    /// Copies positions from the slots of the layers.
    pub(crate) fn read<'a>(
        layers: impl Iterator<Item = &'a LayerCache>,
        layout: KeyLayout,
        positions: Range<usize>,
    ) -> Result<Self> {
        let read = |tensor: &Tensor| -> Result<Vec<u8>> {
            let width = tensor.nb()[1];
            let mut rows = vec![0; positions.len() * width];
            let mut rest = rows.as_mut_slice();
            for slots in layout.runs(positions.clone()) {
                let (run, after) = rest.split_at_mut(slots.len() * width);
                tensor.read(slots.start * width, run)?;
                rest = after;
            }
            Ok(rows)
        };
        let tensors = layers.flat_map(|layer| [&layer.k, &layer.v]);
        Ok(Self {
            rows: tensors.map(read).collect::<Result<_>>()?,
            positions,
        })
    }

    /// Copies the rows to the slots of their positions.
    ///
    /// # Errors
    /// The rows belong to other layers, or the device fails.
    pub(crate) fn write<'a>(
        &self,
        layers: impl Iterator<Item = &'a LayerCache>,
        layout: KeyLayout,
    ) -> Result<()> {
        let tensors: Vec<&Tensor> = layers.flat_map(|layer| [&layer.k, &layer.v]).collect();
        self.check_tensors(&tensors)?;
        for (tensor, rows) in tensors.into_iter().zip(&self.rows) {
            let width = tensor.nb()[1];
            let mut rest = rows.as_slice();
            for slots in layout.runs(self.positions.clone()) {
                let (run, after) = rest.split_at(slots.len() * width);
                tensor.write(slots.start * width, run)?;
                rest = after;
            }
        }
        Ok(())
    }

    /// Rejects rows of other layers.
    pub(crate) fn check<'a>(&self, layers: impl Iterator<Item = &'a LayerCache>) -> Result<()> {
        let tensors: Vec<&Tensor> = layers.flat_map(|layer| [&layer.k, &layer.v]).collect();
        self.check_tensors(&tensors)
    }

    fn check_tensors(&self, tensors: &[&Tensor]) -> Result<()> {
        let sizes = tensors.iter().map(|t| t.nb()[1] * self.positions.len());
        if sizes.eq(self.rows.iter().map(Vec::len)) {
            return Ok(());
        }
        Err(Error::parameter(
            Parameter::Snapshot,
            "it is of a model with other layers, or of another KV cache type",
        ))
    }

    /// Bytes of the rows.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }
}
