//! Draws of a whole canvas from the distribution given a language.

use std::cell::OnceCell;

use super::{ComputedStep, Position, describe, put};
use crate::constraint::rows::{Classes, Given, Row, RowTable};
use crate::constraint::{ClassTables, Work};
use crate::diffusion::draw::Choice;
use crate::diffusion::{ConstrainAt, DrawRule, Steering, Token, refused};
use crate::error::Result;
use crate::ggml::kernels::WEIGHT_SCALE;
use crate::model::graph::DrawPlane;
use crate::parallel;

impl ComputedStep<'_> {
    /// Replaces the planes of the language's positions, the first of the canvas, by what they are given
    /// the language.
    pub(super) fn follow(
        &self,
        steering: &Steering<'_>,
        positions: &mut [Position<'_>],
        work: &mut Work,
    ) -> Result<()> {
        let automaton = steering.language.automaton();
        let classes: &(dyn Classes + Sync) = automaton;
        let rows = parallel::map(positions.iter_mut(), self.threads, |position| {
            self.table(position, classes)
        });
        let rows: Vec<RowTable> = rows.into_iter().collect::<Result<_>>()?;
        let tables = ClassTables::from_rows(classes.count(), rows.iter());
        if steering.at == ConstrainAt::Commit {
            let best = steering
                .language
                .best_path(&tables, work)
                .map_err(refused)?;
            for ((position, table), class) in positions.iter_mut().zip(&rows).zip(best) {
                position.planes[DrawPlane::Argmax as usize] = table.best_of(class) as f32;
            }
            return Ok(());
        }
        let zeros;
        let uniforms = match self.input.rule {
            DrawRule::Inverse { uniforms, .. } => &uniforms[..positions.len()],
            DrawRule::Greedy | DrawRule::Gumbel { .. } => {
                zeros = vec![0.0; positions.len()];
                &zeros[..]
            }
        };
        let projection = steering.language.project(&tables, uniforms, work);
        let projection = projection.map_err(refused)?;
        let items = positions.iter_mut().zip(&rows);
        let items: Vec<_> = items.filter(|(p, _)| self.input.free[p.index]).collect();
        let done = parallel::map(items, self.threads, |(position, table)| {
            let given = Given::at(&projection, position.index, WEIGHT_SCALE, self.least());
            self.project(position, table, classes, &given)
        });
        done.into_iter().collect()
    }

    /// The classes of a position's distribution.
    fn table(&self, position: &mut Position<'_>, classes: &dyn Classes) -> Result<RowTable> {
        let index = position.index;
        if !self.input.free[index] {
            return Ok(RowTable::certain(classes, self.input.canvas[index]));
        }
        let exact = self.exact(index, position.planes[DrawPlane::Argmax as usize] as usize);
        position.weights.read(|weights| {
            let row = Row {
                weights,
                exact: &exact,
            };
            RowTable::new(&row, classes)
        })
    }

    fn project(
        &self,
        position: &mut Position<'_>,
        table: &RowTable,
        classes: &dyn Classes,
        given: &Given<'_>,
    ) -> Result<()> {
        let first = position.planes[DrawPlane::Argmax as usize] as usize;
        let exact = self.exact(position.index, first);
        let choice = position.weights.change(|weights| {
            let mut row = Row {
                weights,
                exact: &exact,
            };
            Ok(table.project(&mut row, classes, given))
        })?;
        let drawn = Choice {
            argmax: choice.argmax,
            sampled: choice.sampled,
            entropy: choice.entropy,
            probability: choice.probability,
            margin: choice.margin,
        };
        put(&drawn, &mut position.planes);
        describe(&choice.spread, &mut position.planes);
        Ok(())
    }

    /// The exact logarithms of a position's weights, by the weights and a token. `first` is the most
    /// likely one.
    fn exact(&self, position: usize, first: usize) -> impl Fn(&[f32], Token) -> f32 {
        // Few rows need them.
        let logits = OnceCell::new();
        let score = move |logit: f32| self.capped(logit) / self.temperature();
        move |weights, token| {
            if self.input.average > 0.0 {
                // Averages have no logits of their own.
                return weights[token as usize].ln();
            }
            if !self.input.allowed.contains(position, token) {
                return f32::NEG_INFINITY;
            }
            let load = || -> Option<(Vec<f32>, f32, f32)> {
                let mut row = vec![0.0; weights.len()];
                self.read_logits(position, &mut row).ok()?;
                let greatest = score(row[first]);
                Some((row, greatest, weights[first].ln()))
            };
            match logits.get_or_init(load) {
                Some((row, greatest, top)) => score(row[token as usize]) - greatest + top,
                // A device that fails gives NaN, which the lattice rejects.
                None => f32::NAN,
            }
        }
    }
}
