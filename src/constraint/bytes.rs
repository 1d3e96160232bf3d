//! Regular languages as minimized deterministic automata over bytes.

use regex_automata::nfa::thompson::{Compiler, Config, NFA, WhichCaptures};
use regex_syntax::ast::{self, Ast, ClassSetItem, Visitor};
use regex_syntax::hir::{Hir, Look};

use super::determinize::{Determinized, determinize};
use super::error::{ConstraintError, Limits, Result};
use super::minimize::{Transition, classes_of_states};

/// A regular language of texts: the minimized deterministic automaton over their UTF-8 bytes.
///
/// It reads texts from their first byte to their last, so expressions are anchored at both ends. From
/// each of its states some text leads to acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteAutomaton {
    /// Bytes of the same class have the same effect on every state.
    pub(super) classes: [u8; 256],
    pub(super) class_count: usize,
    /// `[states × classes]`: the next state, or [`DEAD`]. State 0 is the start.
    pub(super) table: Vec<u32>,
    pub(super) accepting: Vec<bool>,
}

/// No state: the text is not of the language, whatever follows.
pub(super) const DEAD: u32 = u32::MAX;

impl ByteAutomaton {
    /// The texts that `pattern` matches as a whole, in the syntax of the `regex` crate. `^` and `$` are
    /// allowed; groups capture nothing.
    ///
    /// # Errors
    /// [`ConstraintError::Pattern`]: the syntax is wrong, or the pattern has word boundaries or anchors
    /// of lines. [`ConstraintError::Empty`], [`ConstraintError::TooLarge`].
    pub fn from_regex(pattern: &str, limits: &Limits) -> Result<Self> {
        let hir = parse(pattern, limits)?;
        if let Some(look) = unsupported_look(&hir) {
            return Err(ConstraintError::pattern(
                pattern,
                format!(
                    "contains {look}, which is not supported: only `^` and `$` may look around"
                ),
            ));
        }
        Self::from_hir(&hir, limits)
    }

    /// The texts that `hir` matches as a whole. Of look-around, `Look::Start` and `Look::End` are
    /// allowed.
    ///
    /// # Errors
    /// [`ConstraintError::Empty`], [`ConstraintError::TooLarge`], and [`ConstraintError::Pattern`] for
    /// other look-around.
    pub fn from_hir(hir: &Hir, limits: &Limits) -> Result<Self> {
        if let Some(look) = unsupported_look(hir) {
            let problem = format!("contains {look}, which is not supported");
            return Err(ConstraintError::pattern(&hir.to_string(), problem));
        }
        let config = Config::new()
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(limits.nfa_bytes));
        let nfa = Compiler::new().configure(config).build_from_hir(hir);
        // Nothing but the size is left to go wrong.
        let nfa = nfa.map_err(|_| ConstraintError::TooLarge {
            what: "bytes for its automaton",
            limit: limits.nfa_bytes,
        })?;
        Self::from_nfa(&nfa, limits)
    }

    /// The texts that `nfa` matches as a whole.
    ///
    /// # Errors
    /// [`ConstraintError::Empty`], [`ConstraintError::TooLarge`].
    pub(super) fn from_nfa(nfa: &NFA, limits: &Limits) -> Result<Self> {
        Self::minimized(determinize(nfa, limits)?, limits)
    }

    fn minimized(dfa: Determinized, limits: &Limits) -> Result<Self> {
        let live = live_states(&dfa);
        if !live[0] {
            return Err(ConstraintError::Empty);
        }
        let (classes, class_count) = byte_classes(&dfa);
        let mut transitions = Vec::new();
        for from in (0..live.len()).filter(|&s| live[s]) {
            for &(low, high, to) in &dfa.ranges[dfa.offsets[from]..dfa.offsets[from + 1]] {
                if !live[to as usize] {
                    continue;
                }
                let labels = classes[usize::from(low)]..=classes[usize::from(high)];
                transitions.extend(labels.map(|label| Transition {
                    from: from as u32,
                    label,
                    to,
                }));
            }
            if transitions.len() > limits.byte_transitions {
                return Err(ConstraintError::TooLarge {
                    what: "transitions over bytes",
                    limit: limits.byte_transitions,
                });
            }
        }
        // Dead states have no transitions left: they are one class more, and do not disturb the others.
        let class_of = classes_of_states(&dfa.accepting, &transitions, limits.states + 1);
        let merged = class_of.map(|class_of| {
            transitions.sort_unstable_by_key(|t| (t.from, t.label));
            Self::merged(&dfa, &class_of, &transitions, classes, class_count)
        });
        merged
            .filter(|merged| merged.state_count() <= limits.states)
            .ok_or(ConstraintError::TooLarge {
                what: "states",
                limit: limits.states,
            })
    }

    /// One state for each class, in the order in which they are found from the start.
    fn merged(
        dfa: &Determinized,
        class_of: &[u32],
        transitions: &[Transition],
        classes: [u8; 256],
        class_count: usize,
    ) -> Self {
        let mut number = vec![DEAD; class_of.len()];
        let mut members = vec![0_u32]; // a state of each class
        number[class_of[0] as usize] = 0;
        let mut table = Vec::new();
        let mut next = 0;
        while let Some(&state) = members.get(next) {
            table.resize((next + 1) * class_count, DEAD);
            let first = transitions.partition_point(|t| t.from < state);
            for transition in transitions[first..].iter().take_while(|t| t.from == state) {
                let class = &mut number[class_of[transition.to as usize] as usize];
                if *class == DEAD {
                    *class = members.len() as u32;
                    members.push(transition.to);
                }
                table[next * class_count + usize::from(transition.label)] = *class;
            }
            next += 1;
        }
        Self {
            classes,
            class_count,
            table,
            accepting: members.iter().map(|&s| dfa.accepting[s as usize]).collect(),
        }
    }

    /// Number of states.
    pub fn state_count(&self) -> usize {
        self.accepting.len()
    }

    /// Whether `text` is of the language.
    pub fn matches(&self, text: &[u8]) -> bool {
        let step = |state, &byte: &u8| self.next(state, self.class_of(byte));
        let end = text.iter().try_fold(0, step);
        end.is_some_and(|state| self.accepts(state))
    }

    /// Whether a text may end in `state`.
    pub(super) fn accepts(&self, state: u32) -> bool {
        self.accepting[state as usize]
    }

    /// The class of `byte`; two bytes of one class have the same effect on every state.
    pub(super) fn class_of(&self, byte: u8) -> u8 {
        self.classes[usize::from(byte)]
    }

    /// Number of classes of bytes.
    pub(super) fn class_count(&self) -> usize {
        self.class_count
    }

    /// The state after a byte of class `class`.
    pub(super) fn next(&self, state: u32, class: u8) -> Option<u32> {
        let next = self.table[state as usize * self.class_count + usize::from(class)];
        (next != DEAD).then_some(next)
    }
}

/// Parses `pattern` within the limits.
fn parse(pattern: &str, limits: &Limits) -> Result<Hir> {
    if pattern.len() > limits.pattern_bytes {
        return Err(ConstraintError::TooLarge {
            what: "bytes of a regular expression",
            limit: limits.pattern_bytes,
        });
    }
    let unparsable = |error: &dyn std::fmt::Display| {
        // regex-syntax draws the place below the pattern; the last line says what is wrong.
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        let problem = last.strip_prefix("error: ").unwrap_or(last);
        ConstraintError::pattern(pattern, format!("is not valid: {problem}"))
    };
    let ast = ast::parse::Parser::new().parse(pattern);
    let ast = ast.map_err(|error| unparsable(&error))?;
    // The ranges of characters of a class such as `\w` take kilobytes.
    let counter = ClassCounter {
        count: 0,
        limit: limits.character_classes,
    };
    ast::visit(&ast, counter)?;
    let hir = regex_syntax::hir::translate::Translator::new().translate(pattern, &ast);
    hir.map_err(|error| unparsable(&error))
}

struct ClassCounter {
    count: usize,
    limit: usize,
}

impl ClassCounter {
    fn add(&mut self, is_class: bool) -> Result<()> {
        self.count += usize::from(is_class);
        if self.count > self.limit {
            return Err(ConstraintError::TooLarge {
                what: "classes of characters such as `\\w`",
                limit: self.limit,
            });
        }
        Ok(())
    }
}

impl Visitor for ClassCounter {
    type Output = ();
    type Err = ConstraintError;

    fn finish(self) -> Result<()> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<()> {
        self.add(matches!(ast, Ast::ClassUnicode(_) | Ast::ClassPerl(_)))
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<()> {
        self.add(matches!(
            item,
            ClassSetItem::Perl(_) | ClassSetItem::Unicode(_)
        ))
    }
}

/// A look-around assertion of `hir` other than the start and the end of the text.
fn unsupported_look(hir: &Hir) -> Option<&'static str> {
    let looks = hir.properties().look_set();
    looks.iter().find_map(|look| match look {
        Look::Start | Look::End => None,
        Look::StartLF | Look::EndLF | Look::StartCRLF | Look::EndCRLF => {
            Some("an anchor of lines (`^` or `$` with the flag `m`)")
        }
        _ => Some("a word boundary (such as `\\b`)"),
    })
}

/// The states from which an accepting one can be reached.
fn live_states(dfa: &Determinized) -> Vec<bool> {
    let mut predecessors: Vec<(u32, u32)> = Vec::with_capacity(dfa.ranges.len());
    for from in 0..dfa.accepting.len() {
        let ranges = &dfa.ranges[dfa.offsets[from]..dfa.offsets[from + 1]];
        predecessors.extend(ranges.iter().map(|&(_, _, to)| (to, from as u32)));
    }
    predecessors.sort_unstable();
    let mut live = dfa.accepting.clone();
    let mut stack: Vec<u32> = (0..live.len() as u32)
        .filter(|&s| live[s as usize])
        .collect();
    while let Some(state) = stack.pop() {
        let first = predecessors.partition_point(|&(to, _)| to < state);
        for &(_, from) in predecessors[first..].iter().take_while(|p| p.0 == state) {
            if !std::mem::replace(&mut live[from as usize], true) {
                stack.push(from);
            }
        }
    }
    live
}

/// The class of each byte, and the number of classes: bytes between the same bounds of ranges.
fn byte_classes(dfa: &Determinized) -> ([u8; 256], usize) {
    let mut starts = [false; 257];
    for &(low, high, _) in &dfa.ranges {
        starts[usize::from(low)] = true;
        starts[usize::from(high) + 1] = true;
    }
    let mut classes = [0; 256];
    let mut class = 0;
    for byte in 1..256 {
        class += u8::from(starts[byte]);
        classes[byte] = class;
    }
    (classes, usize::from(class) + 1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::timed::timed;
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;

    fn automaton(pattern: &str) -> Result<ByteAutomaton> {
        ByteAutomaton::from_regex(pattern, &Limits::default())
    }

    /// Another engine's answer to whether `pattern` matches all of `text`.
    fn oracle(pattern: &str) -> regex::bytes::Regex {
        regex::bytes::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap()
    }

    #[test]
    fn texts_are_matched_as_a_whole() {
        let date = automaton("[0-9]{4}-[0-9]{2}").unwrap();
        assert!(date.matches(b"2026-11"));
        for text in ["", "2026-1", "2026-111", " 2026-11", "2026-11\n"] {
            assert!(!date.matches(text.as_bytes()), "{text:?}");
        }
        assert!(automaton("^abc$").unwrap().matches(b"abc"));
        assert!(automaton("").unwrap().matches(b""));
        assert!(!automaton("").unwrap().matches(b"a"));
    }

    #[test]
    fn anchors_hold_at_their_ends_only() {
        assert!(automaton("$^|a").unwrap().matches(b""));
        assert!(automaton("(?:a|$^)*b?").unwrap().matches(b"aab"));
        assert_eq!(automaton("a^b"), Err(ConstraintError::Empty));
        assert_eq!(automaton("a$b"), Err(ConstraintError::Empty));
        // Only the empty text of the group ends before `b`.
        let optional = automaton("(?:a$)?b?").unwrap();
        assert!(optional.matches(b"a") && optional.matches(b"b") && !optional.matches(b"ab"));
    }

    #[test]
    fn the_automaton_is_the_smallest() {
        // The states are known from the theory: one for each remainder, one for each suffix.
        assert_eq!(automaton("(?:a{7})*").unwrap().state_count(), 7);
        assert_eq!(automaton("[ab]*a[ab]{9}").unwrap().state_count(), 1 << 10);
        assert_eq!(automaton("x{0,100}").unwrap().state_count(), 101);
        let same = [
            "(?:foo|far|fo+|a|b)*",
            "(?:[ab]|fo+|f(?:a)r)*",
            "(?:(?:a|b)*(?:fo|far|foo+)?)*",
        ];
        let automata = same.map(|pattern| automaton(pattern).unwrap());
        assert!(automata.windows(2).all(|w| w[0] == w[1]));
    }

    #[test]
    fn only_utf8_is_accepted() {
        let any = automaton("(?s:.)*").unwrap();
        assert!(any.matches("aé漢🦉\n".as_bytes()));
        for bytes in [
            &b"\x80"[..],
            b"\xc3",
            b"\xc0\x80",
            b"\xed\xa0\x80", // half of a surrogate pair
            b"\xf4\x90\x80\x80",
            b"a\xffb",
        ] {
            assert!(!any.matches(bytes), "{bytes:x?}");
        }
        let error = automaton(r"(?-u:\xff)").unwrap_err().to_string();
        assert_eq!(
            error,
            r"the regular expression '(?-u:\xff)' is not valid: pattern can match invalid UTF-8"
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (pattern, problem) in [
            ("a(b", "unclosed group"),
            (r"\bword", "contains a word boundary"),
            ("(?m)^a", "contains an anchor of lines"),
            ("(?=a)b", "look-around"),
            (r"(a)\1", "backreferences are not supported"),
            (r"[^\x00-\u{10FFFF}]", "no text satisfies the constraint"),
        ] {
            let error = automaton(pattern).unwrap_err().to_string();
            assert!(error.contains(problem), "{pattern}: {error}");
        }
        let long = "é".repeat(1000) + "(";
        let error = automaton(&long).unwrap_err().to_string();
        assert!(error.contains("éé…'") && error.len() < 300, "{error}");
    }

    #[test]
    fn hostile_expressions_end_in_errors() {
        let many = |part: &str, count: usize| part.repeat(count);
        let nested = format!("{}a{}", many("(?:", 200), many("{0,9})", 200));
        for pattern in [
            "(?:(?:(?:(?:a{1,99}){1,99}){1,99}){1,99}){1,99}".to_owned(),
            r"(?:\w{100}){100}".to_owned(),
            r"[ab]*a[ab]{40}".to_owned(),
            ".*a.{15}".to_owned(),
            ".*a.{16}b?".to_owned(),
            ".*[ab].{16}".to_owned(),
            r"(?:[ab]*a[ab]{18}|[cd]*c[cd]{18})*".to_owned(),
            r"(?:\w{1,40}\s?){1,40}[a-z]*a\w{30}".to_owned(),
            many(r"\w", 100_000),
            many("a", 1_000_000),
            many("(", 100_000),
            many("a|", 120_000) + r"\pL{4000}",
            nested,
        ] {
            // Without optimization a fifth of the steps takes longer than all of them do with it.
            let (share, maximum) = if cfg!(debug_assertions) {
                (5, 40)
            } else {
                (1, 2)
            };
            let maximum = Duration::from_secs(maximum);
            let limits = Limits {
                determinize_steps: Limits::default().determinize_steps / share,
                ..Limits::default()
            };
            let attempt = || timed(|| ByteAutomaton::from_regex(&pattern, &limits).unwrap_err());
            let (mut took, error) = attempt();
            // Neighbours may slow a processor down: the fastest of three attempts counts.
            for _ in 0..2 {
                if took >= maximum {
                    took = took.min(attempt().0);
                }
            }
            let shown = &pattern[..pattern.len().min(40)];
            println!("{took:.2?}: {shown}: {error}");
            let expected = matches!(
                error,
                ConstraintError::TooLarge { .. } | ConstraintError::Pattern { .. }
            );
            assert!(expected, "{shown}: {error}");
            assert!(took < maximum, "{shown}: {took:?}");
        }
    }

    /// Expressions over few letters, with everything that combines them.
    pub(in crate::constraint) fn expressions() -> impl Strategy<Value = String> {
        let atom = prop_oneof![
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("ab".to_owned()),
            Just("[ab]".to_owned()),
            Just("[^a]".to_owned()),
            Just("é".to_owned()),
            Just("(?i:B)".to_owned()),
            Just("(?i:é)".to_owned()),
            Just(r"\w".to_owned()),
            Just(".".to_owned()),
            Just("^".to_owned()),
            Just("$".to_owned()),
            Just(String::new()),
        ];
        atom.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner.clone(), 1..4)
                    .prop_map(|parts| format!("(?:{})", parts.join("|"))),
                inner.clone().prop_map(|part| format!("(?:{part})*")),
                inner.clone().prop_map(|part| format!("(?:{part})?")),
                (inner, 0..3_u32, 0..3_u32)
                    .prop_map(|(part, min, more)| format!("(?:{part}){{{min},{}}}", min + more)),
            ]
        })
    }

    /// Texts that the expressions of [`expressions`] may match, and some that are not UTF-8.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::sample::select(vec![
            &b"a"[..],
            b"b",
            b"A",
            b"B",
            b"c",
            b"\n",
            "é".as_bytes(),
            "É".as_bytes(),
            b"\xc3",
            b"\xa9",
            b"\xff",
        ]);
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn agrees_with_the_regex_crate(
            pattern in expressions(),
            texts in prop::collection::vec(texts(), 60),
        ) {
            let regex = oracle(&pattern);
            match automaton(&pattern) {
                Ok(automaton) => for text in texts {
                    prop_assert_eq!(automaton.matches(&text), regex.is_match(&text), "{} on {:?}", pattern, text);
                },
                Err(ConstraintError::Empty) => for text in texts {
                    prop_assert!(!regex.is_match(&text), "{} on {:?}", pattern, text);
                },
                Err(error) => prop_assert!(false, "{}: {}", pattern, error),
            }
        }
    }
}
