"""Trees of any size, made and changed by a seed: the same every time."""

import os
import random
import stat

PER_DIRECTORY = 40
WORDS = 4096


class Synthetic:
    """A tree of small files: text-like content that compresses about threefold, forty files in a directory."""

    def __init__(self, top, entries, mean):
        self.top, self.entries, self.mean = top, entries, mean
        self.random = random.Random(entries)
        self.words = [
            bytes(self.random.choices(b"abcdefghijklmnopqrstuvwxyz_0123456789", k=self.random.randint(3, 12)))
            for _ in range(WORDS)
        ]
        self.files = []
        self.made = 0

    def make(self):
        os.makedirs(self.top)
        directories = max(1, self.entries // (PER_DIRECTORY + 1))
        for number in range(directories):
            os.makedirs(self.directory(number), exist_ok=True)
        while len(self.files) + directories + directories // 100 < self.entries:
            self.add()

    def directory(self, number):
        return f"{self.top}/{number // 100:04}/{number % 100:02}"

    def add(self):
        """One more file, somewhere."""
        directories = max(1, self.entries // (PER_DIRECTORY + 1))
        path = f"{self.directory(self.made % directories)}/f{self.made}.txt"
        self.made += 1
        with open(path, "wb") as file:
            file.write(self.content())
        self.files.append(path)
        return path

    def content(self):
        size = max(16, int(self.random.gammavariate(2.0, self.mean / 2)))
        text = b" ".join(self.random.choices(self.words, k=size // 8 + 1))
        return text[:size]

    def change(self, share):
        """Changes SHARE percent of the files: of ten, six are edited, two rewritten, one removed, one added.

        Returns the number of changed files and the bytes of the new and changed ones.
        """
        count = max(1, round(len(self.files) * share / 100))
        size = 0
        for place, index in enumerate(sorted(self.random.sample(range(len(self.files)), count), reverse=True)):
            path, kind = self.files[index], place % 10
            if kind < 6:
                self.edit(path)
            elif kind < 8:
                with open(path, "wb") as file:
                    file.write(self.content())
            elif kind == 8:
                os.unlink(path)
                self.files[index] = self.files[-1]
                self.files.pop()
                continue
            else:
                path = self.add()
            size += os.stat(path).st_size
        return count, size

    def edit(self, path):
        """Replaces the file by an edited copy, as the installation of a newer version does."""
        with open(path, "rb") as file:
            content = file.read()
        place = self.random.randrange(len(content))
        mode = stat.S_IMODE(os.stat(path).st_mode)
        with open(path + ".new", "wb") as file:
            file.write(content[:place] + self.random.choice(self.words) + content[place:])
        os.chmod(path + ".new", mode)
        os.rename(path + ".new", path)
