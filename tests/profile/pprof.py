"""Reads profile.proto, and holds what it reads against the format's own rules."""

import gzip


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def fields(data):
    """(number, value) of each field: an int, or the bytes of what has a length."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            assert kind == 2, f"wire type {kind}"
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
            assert len(value) == size, "cut off"
        yield key >> 3, value


def packed(data):
    at, values = 0, []
    while at < len(data):
        value, at = varint(data, at)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values


class Profile:
    """types: [(name, unit)]; samples: [(stack of function names or addresses, innermost first, {type: value})]."""

    def __init__(self, content):
        top = list(fields(gzip.decompress(content)))
        self.strings = [value.decode() for number, value in top if number == 6]
        assert self.strings[0] == ""
        all_of = lambda wanted: [dict(fields(value)) for number, value in top if number == wanted]
        text = lambda message, number: self.strings[message.get(number, 0)]
        numbers = {number: value for number, value in top if isinstance(value, int)}
        self.types = [(text(message, 1), text(message, 2)) for message in all_of(1)]
        self.default = self.strings[numbers[14]]
        self.time, self.period = numbers.get(9, 0), numbers.get(12, 0)
        self.mappings = {m[1]: (m[2], m[3], text(m, 5), text(m, 6)) for m in all_of(3)}
        functions = {m[1]: text(m, 2) for m in all_of(5)}
        locations = {}
        for message in all_of(4):
            if 2 in message:
                begin, end = self.mappings[message[2]][:2]
                assert begin <= message[3] < end, "an address outside its mapping"
            line = dict(fields(message[4])) if 4 in message else None
            locations[message[1]] = functions[line[1]] if line else f"{message[3]:#x}"
        self.samples = []
        self.labels = []  # of each sample, {key: value}
        for number, value in top:
            if number == 2:
                sample = dict(fields(value))
                values = packed(sample[2])
                assert len(values) == len(self.types)
                stack = [locations[i] for i in packed(sample.get(1, b""))]
                labels = [dict(fields(inner)) for field, inner in fields(value) if field == 3]
                self.labels.append({text(label, 1): text(label, 2) for label in labels})
                self.samples.append((stack, dict(zip((name for name, _ in self.types), values))))
        assert any(self.default == name for name, _ in self.types)

    def by_label(self, key, kind, function):
        """The sums over the stacks that have `function` in them, by the value of a label."""
        sums = {}
        for (stack, values), labels in zip(self.samples, self.labels):
            if function in stack:
                sums[labels[key]] = sums.get(labels[key], 0) + values[kind]
        return sums

    def total(self, kind, function=None):
        """The sum over the stacks that have `function` in them, or all."""
        return sum(values[kind] for stack, values in self.samples if function is None or function in stack)
