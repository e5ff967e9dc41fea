//! A restricted unpickler: it builds a tree of plain values and executes nothing.
//!
//! A pickle is a program for a stack machine that can call any Python function. Here a call is only
//! written down: `REDUCE` of a class that is on the [allow-list](class) becomes [`Value::Object`], and
//! what that object means is decided by the caller. Values lie in one arena and refer to each other by
//! index, so aliases keep their identity and neither reading nor dropping a deep pickle recurses.
//!
//! Opcodes: those that `torch.save` writes with protocols 2 to 5, and the string opcodes of Python 2,
//! which wrote torchvision's oldest files.

mod class;
mod value;

use std::collections::BTreeMap;
use std::io::Read;

pub(crate) use class::Class;
pub(crate) use value::{Id, Pickle, Value};

use crate::error::Problem;

/// A state dict of a thousand tensors takes 30 thousand opcodes; with an optimiser's state three times that.
const MAX_OPCODES: usize = 1 << 20;
/// The longest name or text.
const MAX_STRING: u64 = 1 << 16;
/// All names and texts together.
const MAX_STRINGS: u64 = 1 << 24;

/// Reads one pickle and leaves `reader` just behind it.
pub(crate) fn load(reader: &mut impl Read) -> Result<Pickle, Problem> {
    let mut machine = Machine {
        reader,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        work: MAX_OPCODES,
        strings: MAX_STRINGS,
    };
    loop {
        machine.spend(1)?;
        if let Some(root) = machine.step()? {
            return Ok(Pickle { values: machine.objects, root });
        }
    }
}

struct Machine<'a, R> {
    reader: &'a mut R,
    objects: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack where `MARK` stood.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    /// Opcodes that may still be executed, each of which takes a bounded amount of memory.
    work: usize,
    /// Bytes of strings that may still be read.
    strings: u64,
}

impl<R: Read> Machine<'_, R> {
    /// Executes one opcode; the result's identity when it was `STOP`.
    fn step(&mut self) -> Result<Option<Id>, Problem> {
        let [opcode] = self.bytes()?;
        match opcode {
            // PROTO
            0x80 => match self.bytes()? {
                [2..=5] => {}
                [version] => return Problem::refused(format!("it is a pickle of protocol {version}")),
            },
            // FRAME: its length is only a hint for buffering
            0x95 => drop(self.bytes::<8>()?),
            // STOP
            b'.' => return self.pop().map(Some),

            b'N' => self.push(Value::None),
            // NEWTRUE, NEWFALSE
            0x88 | 0x89 => self.push(Value::Opaque),
            // BINFLOAT
            b'G' => {
                self.bytes::<8>()?;
                self.push(Value::Opaque);
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let int = i32::from_le_bytes(self.bytes()?);
                self.push(Value::Int(int.into()));
            }
            b'K' => {
                let [int] = self.bytes()?;
                self.push(Value::Int(int.into()));
            }
            b'M' => {
                let int = u16::from_le_bytes(self.bytes()?);
                self.push(Value::Int(int.into()));
            }
            0x8a => self.long()?,
            // BINUNICODE, SHORT_BINUNICODE, and BINSTRING, SHORT_BINSTRING of Python 2
            b'X' | b'T' => {
                let len = u32::from_le_bytes(self.bytes()?);
                self.string(len.into())?;
            }
            0x8c | b'U' => {
                let [len] = self.bytes()?;
                self.string(len.into())?;
            }

            // MARK, EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Value::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = vec![0; usize::from(opcode - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Value::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }

            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let [key] = self.bytes()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.bytes()?);
                self.memoize(key)?;
            }
            // Fits: there are fewer entries than opcodes.
            0x94 => self.memoize(self.memo.len() as u32)?,
            b'h' => {
                let [key] = self.bytes()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.bytes()?);
                self.recall(key)?;
            }

            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let class = Class::named(&module, &name)?;
                self.push(Value::Class(class));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::String(module), Value::String(name)) = (self.value(module), self.value(name)) else {
                    return Problem::malformed("its pickle names a class by something else than strings");
                };
                let class = Class::named(module, name)?;
                self.push(Value::Class(class));
            }
            // REDUCE, NEWOBJ: a call of a function, an instance of a class
            b'R' | 0x81 => self.call()?,
            // BUILD
            b'b' => self.build()?,
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            _ => {
                return Problem::refused(format!("its pickle uses {}, which no state dict needs", opcode_name(opcode)));
            }
        }
        Ok(None)
    }

    fn spend(&mut self, work: usize) -> Result<(), Problem> {
        match self.work.checked_sub(work) {
            Some(left) => {
                self.work = left;
                Ok(())
            }
            None => Problem::refused(format!("its pickle has more than {MAX_OPCODES} opcodes")),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A line of a `GLOBAL`, without its end.
    fn line(&mut self) -> Result<String, Problem> {
        let mut line = Vec::new();
        loop {
            match self.bytes()? {
                [b'\n'] => break,
                [byte] if line.len() < 256 => line.push(byte),
                _ => return Problem::refused(format!("its pickle names `{}...`", line[..40].escape_ascii())),
            }
        }
        text(line)
    }

    fn string(&mut self, len: u64) -> Result<(), Problem> {
        if len > MAX_STRING.min(self.strings) {
            return Problem::refused(format!("its pickle has a text of {len} bytes, or too many texts"));
        }
        self.strings -= len;
        // Grows with what is there, not with what is claimed.
        let mut bytes = Vec::new();
        if self.reader.by_ref().take(len).read_to_end(&mut bytes)? as u64 != len {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let string = text(bytes)?;
        self.push(Value::String(string));
        Ok(())
    }

    /// `LONG1`: a length and so many bytes of two's complement.
    fn long(&mut self) -> Result<(), Problem> {
        let [len] = self.bytes()?;
        let mut bytes = [0; size_of::<i128>()];
        let Some(used) = bytes.get_mut(..usize::from(len)) else {
            return Problem::refused(format!("its pickle has an integer of {len} bytes"));
        };
        self.reader.read_exact(used)?;
        if used.last().is_some_and(|&top| top >= 0x80) {
            bytes[usize::from(len)..].fill(0xff);
        }
        self.push(Value::Int(i128::from_le_bytes(bytes)));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        // Fits: there are fewer values than opcodes.
        self.stack.push(self.objects.len() as Id);
        self.objects.push(value);
    }

    /// Takes the topmost value, but not from below the last mark.
    fn pop(&mut self) -> Result<Id, Problem> {
        self.top()?;
        Ok(self.stack.pop().expect("there is a top"))
    }

    fn top(&self) -> Result<Id, Problem> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => Ok(top),
            _ => Problem::malformed("its pickle takes more from the stack than it put there"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Problem> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Problem::malformed("its pickle returns to a mark it never set"),
        }
    }

    fn value(&self, id: Id) -> &Value {
        &self.objects[id as usize]
    }

    fn memoize(&mut self, key: u32) -> Result<(), Problem> {
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Problem> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Problem::malformed(format!("its pickle recalls value {key}, which it never stored")),
        }
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Problem> {
        let list = self.top()?;
        match &mut self.objects[list as usize] {
            Value::List(list) => {
                list.extend(items);
                Ok(())
            }
            other => Problem::malformed(format!("its pickle appends to {}", other.kind())),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Problem> {
        let dict = self.top()?;
        match (&mut self.objects[dict as usize], items.as_chunks()) {
            (Value::Dict(dict), (pairs, [])) => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            (other, _) => Problem::malformed(format!("its pickle sets {} values in {}", items.len(), other.kind())),
        }
    }

    fn call(&mut self) -> Result<(), Problem> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let (&Value::Class(class), Value::Tuple(items)) = (self.value(class), self.value(arguments)) else {
            return Problem::malformed(format!("its pickle calls {}", self.value(class).kind()));
        };
        let value = match (class, items.as_slice()) {
            (Class::OrderedDict, []) => Value::Dict(Vec::new()),
            (Class::OrderedDict, &[pairs]) => Value::Dict(self.pairs(pairs)?),
            (Class::OrderedDict, _) => return Problem::malformed("its pickle makes an OrderedDict of several values"),
            (class, _) => Value::Object { class, arguments, state: None },
        };
        self.push(value);
        Ok(())
    }

    /// The items of an `OrderedDict` as Python 2 wrote them: a list of lists of two.
    fn pairs(&mut self, list: Id) -> Result<Vec<(Id, Id)>, Problem> {
        let Value::List(items) = self.value(list) else {
            return Problem::malformed("its pickle makes an OrderedDict of something else than a list");
        };
        // The only opcode that copies: a pickle could otherwise have one long list copied without end.
        self.spend(items.len())?;
        let Value::List(items) = self.value(list) else { unreachable!("it was a list above") };
        items
            .iter()
            .map(|&pair| match self.value(pair) {
                Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
                other => Problem::malformed(format!("its pickle makes an item of an OrderedDict of {}", other.kind())),
            })
            .collect()
    }

    fn build(&mut self) -> Result<(), Problem> {
        let new_state = self.pop()?;
        let target = self.top()?;
        match &mut self.objects[target as usize] {
            // The attributes of a state dict, such as `_metadata`: versions of modules, which Regraft has no use for.
            Value::Dict(_) => {}
            Value::Object { state, .. } => *state = Some(new_state),
            other => return Problem::malformed(format!("its pickle sets the attributes of {}", other.kind())),
        }
        Ok(())
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|_| Problem::Malformed("its pickle has a text that is not UTF-8".into()))
}

/// The name of an opcode that is not read, as Python's `pickletools` gives it.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        0x82..=0x84 => "EXT",
        0x92 => "NEWOBJ_EX",
        0x8b => "LONG4",
        b'B' | b'C' | 0x8e => "BINBYTES",
        0x8f..=0x91 => "a set",
        _ => return format!("opcode 0x{opcode:02x}"),
    };
    format!("opcode 0x{opcode:02x} ({name})")
}

#[cfg(test)]
mod tests;
