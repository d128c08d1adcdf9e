// A log and its auditor on golang.org/x/mod/sumdb, which nobody here wrote: notes, trees, tiles and proofs are theirs, the
// layout of directories (C2SP tlog-tiles) and of a checkpoint's three lines is written here.
//
//	log audit VKEY DIR    opens DIR/checkpoint, reads the tiles through the signed root, and checks every entry and growth
//	log check VKEY PROOFS opens PROOFS.checkpoint; checks an inclusion and a consistency proof (JSON) against its root
//	log make NAME DIR N   makes a log of N entries with a key of its own; prints verifier key and proofs (JSON)
package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type proofs struct {
	Checkpoint  []byte
	Leaf        []byte
	Index       int64
	Inclusion   tlog.RecordProof
	OldSize     int64
	OldRoot     tlog.Hash
	Consistency tlog.TreeProof
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func open(vkey string, signed []byte) tlog.Tree {
	verifier, err := note.NewVerifier(vkey)
	must(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		log.Fatalf("checkpoint of %q, not of %q", lines[0], verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return tlog.Tree{N: size, Hash: root}
}

// C2SP leaves the height out of paths, and calls the data of a tile its entries.
func path(tile tlog.Tile) string {
	rest := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	return "tile/" + strings.Replace(rest, "data/", "entries/", 1)
}

type directory string

func (d directory) Height() int { return height }

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var contents [][]byte
	for _, tile := range tiles {
		content, err := os.ReadFile(filepath.Join(string(d), path(tile)))
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

func (d directory) SaveTiles(tiles []tlog.Tile, contents [][]byte) {}

func (d directory) entries(size int64) [][]byte {
	var entries [][]byte
	for n := int64(0); int64(len(entries)) < size; n++ {
		width := size - n<<height
		if width > 1<<height {
			width = 1 << height
		}
		bundle, err := os.ReadFile(filepath.Join(string(d), path(tlog.Tile{H: height, L: -1, N: n, W: int(width)})))
		must(err)
		for len(bundle) > 0 {
			length := int(binary.BigEndian.Uint16(bundle))
			entries = append(entries, bundle[2:2+length])
			bundle = bundle[2+length:]
		}
	}
	return entries
}

func audit(vkey, dir string) {
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	must(err)
	tree := open(vkey, signed)
	reader := tlog.TileHashReader(tree, directory(dir)) // which checks tiles against the root
	root, err := tlog.TreeHash(tree.N, reader)
	must(err)
	if root != tree.Hash {
		log.Fatal("the tiles give another root")
	}
	entries := directory(dir).entries(tree.N)
	if int64(len(entries)) != tree.N {
		log.Fatalf("%d entries, expected %d", len(entries), tree.N)
	}
	for n, entry := range entries {
		proof, err := tlog.ProveRecord(tree.N, int64(n), reader)
		must(err)
		must(tlog.CheckRecord(proof, tree.N, tree.Hash, int64(n), tlog.RecordHash(entry)))
		old, err := tlog.TreeHash(int64(n)+1, reader)
		must(err)
		growth, err := tlog.ProveTree(tree.N, int64(n)+1, reader)
		must(err)
		must(tlog.CheckTree(growth, tree.N, tree.Hash, int64(n)+1, old))
	}
	fmt.Println(tree.N)
}

func check(vkey, file string) {
	content, err := os.ReadFile(file)
	must(err)
	var given proofs
	must(json.Unmarshal(content, &given))
	tree := open(vkey, given.Checkpoint)
	must(tlog.CheckRecord(given.Inclusion, tree.N, tree.Hash, given.Index, tlog.RecordHash(given.Leaf)))
	must(tlog.CheckTree(given.Consistency, tree.N, tree.Hash, given.OldSize, given.OldRoot))
	fmt.Println(tree.N)
}

func makeLog(name, dir string, size int64) {
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	must(err)
	signer, err := note.NewSigner(skey)
	must(err)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, index := range indexes {
			hashes = append(hashes, stored[index])
		}
		return hashes, nil
	})
	bundles := map[int64][]byte{}
	for n := int64(0); n < size; n++ {
		entry := []byte(fmt.Sprintf("entry %d of %s", n, name))
		hashes, err := tlog.StoredHashes(n, entry, reader)
		must(err)
		stored = append(stored, hashes...)
		bundle := binary.BigEndian.AppendUint16(bundles[n>>height], uint16(len(entry)))
		bundles[n>>height] = append(bundle, entry...)
	}
	write := func(tile tlog.Tile, content []byte) {
		file := filepath.Join(dir, path(tile))
		must(os.MkdirAll(filepath.Dir(file), 0o755))
		must(os.WriteFile(file, content, 0o644))
	}
	for _, tile := range tlog.NewTiles(height, 0, size) {
		if tile.W < 1<<height && tile.N<<height+int64(tile.W) != size>>(height*tile.L) {
			continue // partial, and replaced by a wider one since
		}
		content, err := tlog.ReadTileData(tile, reader)
		must(err)
		write(tile, content)
		if tile.L == 0 {
			tile.L = -1
			write(tile, bundles[tile.N])
		}
	}
	root, err := tlog.TreeHash(size, reader)
	must(err)
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", name, size, root)}, signer)
	must(err)
	must(os.WriteFile(filepath.Join(dir, "checkpoint"), signed, 0o644))
	made := proofs{Checkpoint: signed, Index: size / 3, OldSize: (size + 1) / 2}
	made.Leaf = []byte(fmt.Sprintf("entry %d of %s", made.Index, name))
	made.Inclusion, err = tlog.ProveRecord(size, made.Index, reader)
	must(err)
	made.OldRoot, err = tlog.TreeHash(made.OldSize, reader)
	must(err)
	made.Consistency, err = tlog.ProveTree(size, made.OldSize, reader)
	must(err)
	printed, err := json.Marshal(map[string]any{"vkey": vkey, "skey": skey, "proofs": made})
	must(err)
	fmt.Println(string(printed))
}

func main() {
	log.SetFlags(0)
	arguments := os.Args[1:]
	switch arguments[0] {
	case "audit":
		audit(arguments[1], arguments[2])
	case "check":
		check(arguments[1], arguments[2])
	case "make":
		size, err := strconv.ParseInt(arguments[3], 10, 64)
		must(err)
		makeLog(arguments[1], arguments[2], size)
	}
}
