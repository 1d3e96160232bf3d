//! Self-conditioning's product: rows of a table of embeddings, mixed with the weights of tokens.
//!
//! * `dense` multiplies all rows, `sparse` those of the tokens that matter.
//! * `table` reads rows as the file stores them, of Q6_K by `q6_k`.

mod dense;
mod q6_k;
mod sparse;
mod table;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use sparse::for_each_above;
