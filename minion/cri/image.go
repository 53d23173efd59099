package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	credentials "github.com/k8sm/k8sm/minion/registry"
)

// ListImages lists the Engine's images, or the one that the filter names.
func (s *Server) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	args := filters.NewArgs()
	if name := r.GetFilter().GetImage().GetImage(); name != "" {
		name = s.engineName(ctx, name)
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			name = reference.FamiliarString(named) // the Engine compares it with short names
		}
		args.Add("reference", name)
	}
	known := s.pulled.all() // read before the list, so that it has no newer image
	list, err := s.docker.ImageList(ctx, image.ListOptions{Filters: args})
	if err != nil {
		return nil, err
	}
	if args.Len() == 0 {
		s.forgetGone(known, list)
	}
	response := new(runtimeapi.ListImagesResponse)
	for _, i := range list {
		response.Images = append(response.Images, s.image(i.ID, i.RepoTags, i.RepoDigests, i.Size))
	}
	return response, nil
}

// forgetGone forgets images that someone else has removed: if they return, we did not pull them.
func (s *Server) forgetGone(known []*pulledImage, list []image.Summary) {
	for _, one := range known {
		if slices.ContainsFunc(list, func(i image.Summary) bool { return i.ID == one.ID }) {
			continue
		}
		if err := s.pulled.forget(one); err != nil {
			s.log.WithError(err).Warn("cannot forget an image that is gone: it still counts as pulled by this node")
		}
	}
}

// image translates an image. Images that this node did not pull are pinned, so that the kubelet's garbage collection keeps them. So
// is the sandbox image, and so are images that others have tagged, because they would stay anyway.
func (s *Server) image(id string, tags, digests []string, size int64) *runtimeapi.Image {
	tags, digests = slices.DeleteFunc(slices.Clone(tags), isNoTag), slices.DeleteFunc(slices.Clone(digests), isNameless)
	pulled := s.pulled.find(id)
	_, others := pulled.split(slices.Concat(tags, digests))
	return &runtimeapi.Image{
		Id: id, RepoTags: tags, RepoDigests: s.originalDigests(digests), Size: uint64(max(size, 0)),
		Pinned: pulled == nil || len(others) > 0 || slices.Contains(tags, s.sandboxImage),
	}
}

// isNoTag reports whether Docker returned something else among an image's tags. With containerd's image store that may be its digest.
func isNoTag(name string) bool { return isNameless(name) || strings.Contains(name, "@") }

// isNameless reports whether Docker returned a placeholder instead of a name.
func isNameless(name string) bool { return strings.HasPrefix(name, "<none>") }

// ImageStatus returns the status of one image; the response is empty if the Engine does not have it.
func (s *Server) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	i, err := s.docker.ImageInspect(ctx, s.engineName(ctx, r.GetImage().GetImage()))
	if isNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	found := s.image(i.ID, i.RepoTags, i.RepoDigests, i.Size)
	found.Spec = &runtimeapi.ImageSpec{Image: i.ID} // the same for every name of the image
	if i.Config != nil {
		found.Uid, found.Username = imageUser(i.Config.User)
	}
	response := &runtimeapi.ImageStatusResponse{Image: found}
	if r.GetVerbose() {
		config, err := json.Marshal(map[string]any{"imageSpec": i.Config})
		if err != nil {
			return nil, err
		}
		response.Info = map[string]string{"info": string(config)}
	}
	return response, nil
}

// imageUser splits an image's USER, "user[:group]", where the user is a number or a name. No user means root.
func imageUser(user string) (*runtimeapi.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return &runtimeapi.Int64Value{}, ""
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		return &runtimeapi.Int64Value{Value: uid}, ""
	}
	return nil, user
}

// PullImage pulls an image and returns its id.
func (s *Server) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name := r.GetImage().GetImage()
	pulled := s.pullName(name)
	note, err := s.notePull(ctx, name, pulled)
	if err != nil {
		return nil, err
	}
	if err = s.pullWithCredentials(ctx, r, pulled); err == nil {
		err = s.tagPulled(ctx, pulled, name)
	}
	s.settlePull(ctx, note)
	if err != nil && pulled != name {
		return nil, fmt.Errorf("cannot pull %s from %s: %w", name, pulled, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pull %s: %w", name, err)
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	i, err := s.docker.ImageInspect(ctx, pulled)
	if err != nil {
		return nil, fmt.Errorf("cannot find %s after pulling it: %w", name, err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: i.ID}, nil
}

// notePull records that a pull begins, and the images that the Engine has.
func (s *Server) notePull(ctx context.Context, name, pulled string) (pullNote, error) {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	list, err := s.docker.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return pullNote{}, fmt.Errorf("cannot list the images before pulling %s: %w", name, err)
	}
	return s.pulled.begin(name, pulled, list)
}

// registryAuth translates the kubelet's credentials; "auth" is base64 of user:password, which the Engine reads too.
func registryAuth(a *runtimeapi.AuthConfig) (string, error) {
	auth := registry.AuthConfig{
		Username: a.GetUsername(), Password: a.GetPassword(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if a.GetAuth() != "" && auth.Username == "" {
		var err error
		if auth.Username, auth.Password, err = credentials.DecodeAuth(a.GetAuth()); err != nil {
			return "", err
		}
	}
	return registry.EncodeAuthConfig(auth)
}

// RemoveImage removes an image that this node has pulled, with all names under which it did. The Engine refuses while a container
// uses it. If others have tagged the image, it stays under their tags. RemoveImage succeeds for an image that is gone.
func (s *Server) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	name := r.GetImage().GetImage()
	i, err := s.docker.ImageInspect(ctx, s.engineName(ctx, name))
	if isNotFound(err) {
		return &runtimeapi.RemoveImageResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	pulled := s.pulled.find(i.ID)
	if pulled == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "cannot remove image %s: this node did not pull it; if it is unused, remove it with docker rmi", name)
	}
	ours, others := pulled.split(slices.DeleteFunc(slices.Concat(i.RepoTags, i.RepoDigests), isNameless))
	if len(others) == 0 {
		ours = append(ours, i.ID) // while other names exist, the Engine only removes names
	}
	for _, known := range ours {
		if _, err := s.docker.ImageRemove(ctx, known, image.RemoveOptions{PruneChildren: true}); err != nil && !isNotFound(err) {
			return nil, fmt.Errorf("cannot remove image %s: %w", name, err)
		}
	}
	return &runtimeapi.RemoveImageResponse{}, s.pulled.forget(pulled)
}

// ImageFsInfo returns the disk usage of images. Writable layers of containers are on the same file system.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	used, err := s.usage.images(func() (int64, error) {
		usage, err := s.docker.DiskUsage(ctx, types.DiskUsageOptions{Types: []types.DiskUsageObject{types.ImageObject}})
		return usage.LayersSize, err
	})
	if err != nil {
		return nil, err
	}
	fs := &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.dockerRoot},
		UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(max(used, 0))},
		InodesUsed: &runtimeapi.UInt64Value{},
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fs},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{fs},
	}, nil
}
