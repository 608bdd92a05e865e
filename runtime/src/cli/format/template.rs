//! Templates: what of Go's `text/template` people use with `--format`, with Docker's functions.
//!
//! Source: `pkg.go.dev/text/template`; Docker's documentation, "Format command and log output".

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::lexer::{Piece, Word, pieces};

/// A template that was understood.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Template {
    body: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    /// `if` or `range`, what follows if it holds, and what if not.
    Block {
        each: bool,
        condition: Pipe,
        body: Vec<Self>,
        otherwise: Vec<Self>,
    },
}

/// Commands; each gets the value of the one before it as its last argument.
type Pipe = Vec<Vec<Operand>>;

#[derive(Clone, Debug)]
enum Operand {
    Value(Value),
    Field(bool, Vec<String>),
    Function(String),
    Inner(Pipe),
}

/// How deeply blocks and parentheses may lie in each other.
const DEEPEST: usize = 50;
/// The most spaces that `pad` adds on a side.
const MOST_SPACES: usize = 1000;

impl Template {
    /// Understands a template.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { pieces: pieces(text).context("template")?.into_iter(), depth: 0 };
        let (body, end) = parser.block().context("template")?;
        ensure!(end.is_none(), "template: unexpected {{{{{}}}}}", end.unwrap_or_default());
        Ok(Self { body })
    }

    /// What it makes of `data`.
    ///
    /// # Errors
    ///
    /// If it names a field that is not there, or a function wants something else.
    pub(in crate::cli) fn run(&self, data: &Value) -> Result<String> {
        let mut text = String::new();
        run_all(&self.body, data, data, &mut text).context("template")?;
        Ok(text)
    }
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Parser {
    /// Nodes up to `else`, `end` or the end, and which of them it was.
    fn block(&mut self) -> Result<(Vec<Node>, Option<String>)> {
        self.depth += 1;
        ensure!(self.depth <= DEEPEST, "blocks lie too deep");
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let words = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(words) => words,
            };
            match words.as_slice() {
                [Word::Name(name), rest @ ..] if name == "if" || name == "range" => {
                    nodes.push(self.conditional(name == "range", rest)?);
                }
                [Word::Name(name), rest @ ..] if name == "else" || name == "end" => {
                    let more = matches!(rest, [Word::Name(word), ..] if word == "if");
                    ensure!(
                        rest.is_empty() || (name == "else" && more),
                        "unexpected words after {name}"
                    );
                    self.depth -= 1;
                    if let Some(condition) = rest.get(1..).filter(|_| more) {
                        // `else if` is an `if` in an `else`, which ends with it.
                        let inner = self.conditional(false, condition)?;
                        nodes.push(Node::Text(String::new()));
                        return Ok((vec_with(nodes, inner), Some("else if".to_owned())));
                    }
                    return Ok((nodes, Some(name.clone())));
                }
                words => nodes.push(Node::Print(pipe(&mut words.iter(), false, 0)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn conditional(&mut self, each: bool, condition: &[Word]) -> Result<Node> {
        let condition = pipe(&mut condition.iter(), false, 0)?;
        let (mut body, end) = self.block()?;
        let otherwise = match end.as_deref() {
            Some("end") => Vec::new(),
            Some("else if") => body.pop().into_iter().collect(),
            Some(_) => {
                let (otherwise, end) = self.block()?;
                ensure!(end.as_deref() == Some("end"), "a block is not ended");
                otherwise
            }
            None => bail!("a block is not ended: want {{{{end}}}}"),
        };
        Ok(Node::Block { each, condition, body, otherwise })
    }
}

fn vec_with(mut nodes: Vec<Node>, last: Node) -> Vec<Node> {
    nodes.push(last);
    nodes
}

/// Reads commands up to the end, or to the closing parenthesis.
fn pipe(words: &mut std::slice::Iter<'_, Word>, inner: bool, depth: usize) -> Result<Pipe> {
    ensure!(depth <= DEEPEST, "parentheses lie too deep");
    let mut commands = vec![Vec::new()];
    let mut closed = false;
    for_each_word(words, |word, words| {
        let operand = match word {
            Word::Close if inner => {
                closed = true;
                return Ok(false);
            }
            Word::Close => bail!("unexpected )"),
            Word::Pipe => {
                commands.push(Vec::new());
                return Ok(true);
            }
            Word::Open => Operand::Inner(pipe(words, true, depth + 1)?),
            Word::Field(root, names) => Operand::Field(*root, names.clone()),
            Word::Name(name) => match name.as_str() {
                "true" => Operand::Value(Value::Bool(true)),
                "false" => Operand::Value(Value::Bool(false)),
                "nil" => Operand::Value(Value::Null),
                _ => Operand::Function(name.clone()),
            },
            Word::Text(text) => Operand::Value(Value::from(text.as_str())),
            Word::Number(number) => Operand::Value(Value::from(*number)),
        };
        if let Some(last) = commands.last_mut() {
            last.push(operand);
        }
        Ok(true)
    })?;
    ensure!(closed == inner, "unclosed (");
    ensure!(commands.iter().all(|command| !command.is_empty()), "missing value for command");
    Ok(commands)
}

fn for_each_word<'a>(
    words: &mut std::slice::Iter<'a, Word>,
    mut visit: impl FnMut(&'a Word, &mut std::slice::Iter<'a, Word>) -> Result<bool>,
) -> Result<()> {
    while let Some(word) = words.next() {
        if !visit(word, words)? {
            break;
        }
    }
    Ok(())
}

fn run_all(nodes: &[Node], here: &Value, root: &Value, text: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(literal) => text.push_str(literal),
            Node::Print(pipe) => text.push_str(&shown(&evaluate(pipe, here, root)?)),
            Node::Block { each, condition, body, otherwise } => {
                let value = evaluate(condition, here, root)?;
                match (&value, each) {
                    _ if !is_true(&value) => run_all(otherwise, here, root, text)?,
                    (_, false) => run_all(body, here, root, text)?,
                    (Value::Array(items), true) => {
                        items.iter().try_for_each(|item| run_all(body, item, root, text))?;
                    }
                    (Value::Object(fields), true) => {
                        fields.values().try_for_each(|item| run_all(body, item, root, text))?;
                    }
                    (other, true) => bail!("range can't iterate over {other}"),
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, here: &Value, root: &Value) -> Result<Value> {
    let mut last: Option<Value> = None;
    for command in pipe {
        let mut values = Vec::new();
        let mut operands = command.iter();
        let function = match operands.next() {
            Some(Operand::Function(name)) => Some(name),
            Some(operand) => {
                values.push(value(operand, here, root)?);
                None
            }
            None => None,
        };
        for operand in operands {
            values.push(value(operand, here, root)?);
        }
        values.extend(last.take());
        last = Some(match function {
            Some(name) => call(name, &values)?,
            None => {
                ensure!(values.len() == 1, "can't give arguments to what is no function");
                values.pop().unwrap_or_default()
            }
        });
    }
    Ok(last.unwrap_or_default())
}

fn value(operand: &Operand, here: &Value, root: &Value) -> Result<Value> {
    match operand {
        Operand::Value(value) => Ok(value.clone()),
        Operand::Inner(pipe) => evaluate(pipe, here, root),
        Operand::Function(name) => call(name, &[]),
        Operand::Field(from_root, names) => {
            let mut found = if *from_root { root } else { here };
            for name in names {
                found = match found {
                    Value::Object(fields) => {
                        fields.get(name).with_context(|| format!("can't evaluate field {name}"))?
                    }
                    // A field of nothing is nothing.
                    Value::Null => &Value::Null,
                    _ => bail!("can't evaluate field {name}"),
                };
            }
            Ok(found.clone())
        }
    }
}

fn call(name: &str, values: &[Value]) -> Result<Value> {
    match name {
        "json" | "len" | "index" | "eq" | "ne" | "not" | "and" | "or" => of_values(name, values),
        "join" | "split" | "lower" | "upper" | "title" | "pad" | "truncate" | "print"
        | "println" => of_texts(name, values),
        _ => bail!("function {name:?} not defined"),
    }
}

fn of_values(name: &str, values: &[Value]) -> Result<Value> {
    Ok(match (name, values) {
        ("json", [value]) => Value::from(value.to_string()),
        ("len", [Value::Array(items)]) => Value::from(items.len()),
        ("len", [Value::Object(fields)]) => Value::from(fields.len()),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Null]) => Value::from(0),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("eq", [first, others @ ..]) if !others.is_empty() => Value::from(others.contains(first)),
        ("ne", [first, second]) => Value::from(first != second),
        ("not", [value]) => Value::from(!is_true(value)),
        ("and", [.., last]) => values.iter().find(|value| !is_true(value)).unwrap_or(last).clone(),
        ("or", [.., last]) => values.iter().find(|value| is_true(value)).unwrap_or(last).clone(),
        _ => bail!("wrong arguments for {name}"),
    })
}

fn of_texts(name: &str, values: &[Value]) -> Result<Value> {
    let words = |values: &[Value]| values.iter().map(shown).collect::<Vec<_>>();
    let number = |number: &serde_json::Number| {
        usize::try_from(number.as_u64().unwrap_or_default()).unwrap_or(usize::MAX)
    };
    Ok(Value::from(match (name, values) {
        ("join", [Value::Array(items), Value::String(between)]) => words(items).join(between),
        ("join", [Value::Null, _]) => String::new(),
        ("split", [Value::String(text), Value::String(at)]) => {
            return Ok(Value::from(text.split(at.as_str()).collect::<Vec<_>>()));
        }
        ("lower", [value]) => shown(value).to_lowercase(),
        ("upper", [value]) => shown(value).to_uppercase(),
        ("title", [value]) => title(&shown(value)),
        ("pad", [Value::String(text), Value::Number(before), Value::Number(after)]) => {
            let spaces = |count| " ".repeat(number(count).min(MOST_SPACES));
            format!("{}{text}{}", spaces(before), spaces(after))
        }
        ("truncate", [Value::String(text), Value::Number(most)]) => {
            text.chars().take(number(most)).collect()
        }
        ("print", values) => words(values).concat(),
        ("println", values) => format!("{}\n", words(values).join(" ")),
        _ => bail!("wrong arguments for {name}"),
    }))
}

fn title(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut found = value;
    for key in keys {
        found = match (found, key) {
            (Value::Object(fields), Value::String(name)) => {
                fields.get(name).unwrap_or(&Value::Null)
            }
            (Value::Array(items), Value::Number(at)) => {
                let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| items.get(at)).context("index out of range")?
            }
            (Value::Null, _) => &Value::Null,
            _ => bail!("can't index {found} with {key}"),
        };
    }
    Ok(found.clone())
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name}:{}", shown(value));
            format!("map[{}]", fields.iter().map(field).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> Value {
        json!({
            "Id": "sha256:12", "Tags": ["a:1", "b:2"], "None": null, "Size": 5, "Yes": true,
            "Config": {"Env": ["A=1"], "Labels": {"x.y": "z"}},
        })
    }

    fn made(template: &str) -> Result<String> {
        Template::parse(template)?.run(&data())
    }

    #[test]
    fn templates_do_what_gos_do() {
        for (template, expected) in [
            ("{{.Id}}", "sha256:12"),
            ("{{ .Size }} {{.Yes}}", "5 true"),
            ("{{json .Tags}}", r#"["a:1","b:2"]"#),
            ("{{.Tags}}", "[a:1 b:2]"),
            ("{{.Config.Labels}}", "map[x.y:z]"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{index .Tags 1}}", "b:2"),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a:1><b:2>"),
            ("{{range .None}}x{{else}}empty{{end}}", "empty"),
            ("{{range .Tags}}{{$.Size}}{{end}}", "55"),
            ("{{if .Yes}}y{{else}}n{{end}}", "y"),
            ("{{if .None}}a{{else if .Yes}}b{{else}}c{{end}}!", "b!"),
            ("{{if .None}}a{{else if .None}}b{{else}}c{{end}}!", "c!"),
            ("{{if eq .Size 5}}five{{end}}", "five"),
            ("{{len .Tags}}", "2"),
            ("{{join .Tags \", \"}}", "a:1, b:2"),
            ("{{.Id | upper}}", "SHA256:12"),
            ("{{index (split .Id \":\") 1}}", "12"),
            ("{{println .Size}}", "5\n"),
            ("{{not .Yes}} {{or .None .Size}} {{and .Yes .None}}", "false 5 <no value>"),
            ("{{.None.Below}}", "<no value>"),
            ("{{truncate .Id 6}}", "sha256"),
            ("{{`a`}}{{\"\\t\"}}", "a\t"),
        ] {
            assert_eq!(made(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for template in [
            "{{.Absent}}",
            "{{nothing}}",
            "{{if .Id}}",
            "{{end}}",
            "{{.Id .Size}}",
            "{{index .Tags 9}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{| json}}",
            "{{range .Size}}{{end}}",
            "{{len}}",
            "{{else}}",
        ] {
            assert!(made(template).is_err(), "{template}");
        }
    }
}
