"""git under the preload: a repository made, changed, packed by threads, checked and cloned."""

import os
import random

import harness

VARIABLES = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
    "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org", "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat",
}


def write_files(directory, seed, count):
    """Text files of all sizes in folders; the same for the same seed."""
    source = random.Random(seed)
    for i in range(count):
        folder = os.path.join(directory, f"folder{i % 17}")
        os.makedirs(folder, exist_ok=True)
        lines = [f"{source.randrange(10 ** 6)} line {j}\n" for j in range(int(2 ** source.uniform(1, 11)))]
        with open(os.path.join(folder, f"file{i}.txt"), "w", encoding="ascii") as file:
            file.writelines(lines)


class GitTest(harness.PreloadTest):
    def session(self, preload):
        """Runs the same commands in a directory of the same name; returns what they printed."""
        root = self.directory("preloaded" if preload else "plain")
        work = os.path.join(root, "work")
        printed = []

        def git(*arguments, cwd=work, status=0):
            got, output, errors = harness.run([harness.program("git"), *arguments], preload, cwd=cwd,
                                              variables={**VARIABLES, "HOME": root})
            errors = errors.replace(root.encode(), b"ROOT")
            self.assertEqual(status, got, (arguments, errors))
            printed.append((arguments[0], output.replace(root.encode(), b"ROOT"), errors))
            return output

        git("init", "-q", "-b", "main", work, cwd=root)
        git("config", "pack.threads", "4")
        for commit in range(4):
            write_files(work, commit, 250)
            git("add", "-A")
            git("commit", "-q", "-m", f"Commit {commit}")
        git("checkout", "-q", "-b", "side", "HEAD~2")
        with open(os.path.join(work, "side.txt"), "w", encoding="ascii") as file:
            file.write("side\n" * 1000)
        git("add", "side.txt")
        git("commit", "-q", "-m", "Side")
        git("merge", "-q", "-m", "Merge", "main")
        git("log", "--graph", "--stat", "--format=%H %s %an")
        git("diff", "--stat", "-M", "HEAD~3")
        git("grep", "-c", "777", "HEAD", "--", "folder1", "folder2")
        git("blame", "folder3/file3.txt")
        git("gc", "-q", "--aggressive", "--prune=now")
        git("fsck", "--full", "--strict")
        git("clone", "-q", "--no-hardlinks", work, os.path.join(root, "clone"), cwd=root)
        git("rev-parse", "HEAD", "HEAD^{tree}", cwd=os.path.join(root, "clone"))
        git("status", "--porcelain", cwd=os.path.join(root, "clone"))
        git("checkout", "missing", status=1)
        return printed

    def test_same_repository(self):
        plain = self.session(False)
        preloaded = self.session(True)
        self.assertEqual(plain, preloaded)


if __name__ == "__main__":
    harness.main()
